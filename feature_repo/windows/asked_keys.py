"""The values asked of each key, numbered, so that events and rows that ask are matched by numbers."""

from collections.abc import Mapping, Sequence

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.lake import quote
from feature_repo.windows.event_scan import KeyPart

_VALUES = "__asked_values"


def encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """A column as its distinct values and the place of each row's among them."""
    if pa.types.is_dictionary(column.type):
        # Its own values may be many that no row has.
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type) or not column.num_chunks:
        # Not every type of values has an array without any.
        return pa.nulls(len(column)).dictionary_encode()
    column = column.dictionary_encode()
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.unify_dictionaries().chunks)


class AskedKeys:
    """The values asked of each key, numbered in a table each.

    Args:
        asked: for each column of the rows that ask, a table expression with every value that will be asked of it.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, asked: Mapping[str, str]) -> None:
        self._connection = connection
        self._asked = asked
        self._numbered: dict[KeyPart, tuple[str, str]] = {}

    @property
    def parts(self) -> Sequence[KeyPart]:
        return list(self._numbered)

    def column(self, part: KeyPart) -> str:
        """The column of the rows in which a part is asked."""
        return self._numbered[part][0]

    def part(self, key: str, kind: str, column: str) -> KeyPart:
        """The part for a source's key of a DuckDB type, asked in a column of the rows."""
        asked = (column, kind)
        found = next((part for part, other in self._numbered.items() if other == asked), None)
        part = KeyPart(key, found.table, found.size) if found else self._number(key, kind, column)
        self._numbered[part] = asked
        return part

    def ids(self, part: KeyPart, values: pa.DictionaryArray) -> NDArray[np.int32]:
        """The number of each row's value, -1 for none."""
        _, kind = self._numbered[part]
        table = pa.table({"value": values.dictionary, "place": np.arange(len(values.dictionary))})
        self._connection.register(_VALUES, table)
        found = self._connection.execute(
            f"SELECT place, coalesce(i.id, -1) AS id FROM {_VALUES} v LEFT JOIN {part.table} i "
            f"ON {_cast('value', kind, 'v.')} = i.value"
        ).fetchnumpy()
        self._connection.unregister(_VALUES)
        # One more than there are values, for null.
        numbers: NDArray[np.int32] = np.full(len(table) + 1, -1, dtype=np.int32)
        numbers[found["place"]] = found["id"]
        places = values.indices.fill_null(len(table)) if values.null_count else values.indices
        ids: NDArray[np.int32] = numbers[places.to_numpy()]
        return ids

    def _number(self, key: str, kind: str, column: str) -> KeyPart:
        table = f"__numbered_{len(self._numbered)}"
        self._connection.execute(
            f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT value, (row_number() OVER () - 1)::INTEGER AS id FROM "
            f"(SELECT DISTINCT {_cast(column, kind)} AS value FROM {self._asked[column]} WHERE {quote(column)} IS NOT NULL)"
        )
        ((size,),) = self._connection.execute(f"SELECT count(*) FROM {table}").fetchall()
        return KeyPart(key, table, size)


def _cast(column: str, kind: str, table: str = "") -> str:
    return f"CAST({table}{quote(column)} AS {kind})"
