"""The values asked of each key, numbered, so that events and rows that ask are matched by numbers."""

from collections.abc import Mapping

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.lake import quote
from feature_repo.windows.event_scan import KeyPart

_ROWS, _PLACE = "__asking_rows", "__place"


class AskedKeys:
    """The values asked of each key, numbered in a table each.

    Args:
        asked: for each column of the rows that ask, a table expression with every value that will be asked of it.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, asked: Mapping[str, str]) -> None:
        self._connection = connection
        self._asked = asked
        self._numbered: dict[KeyPart, tuple[str, str]] = {}

    def part(self, key: str, kind: str, column: str) -> KeyPart:
        """The part for a source's key of a DuckDB type, asked in a column of the rows."""
        asked = (column, kind)
        found = next((part for part, other in self._numbered.items() if other == asked), None)
        part = KeyPart(key, found.table, found.size) if found else self._number(key, kind, column)
        self._numbered[part] = asked
        return part

    def ids(self, columns: Mapping[str, pa.ChunkedArray]) -> dict[KeyPart, NDArray[np.int32]]:
        """For every part the number of each row's value, -1 for none.

        Args:
            columns: of the rows that ask, all those in which parts are asked.
        """
        tables = {part.table: asked for part, asked in self._numbered.items()}
        if not tables:
            return {}
        # Under names of ours: DuckDB does not tell theirs apart by upper and lower case.
        names = {column: f"__column_{i}" for i, (column, _) in enumerate(tables.values())}
        rows = pa.table({ours: columns[column] for column, ours in names.items()})
        places = pa.array(np.arange(len(rows)))
        self._connection.register(_ROWS, rows.append_column(_PLACE, places))
        found = self._connection.execute(
            f"SELECT {_PLACE}, {', '.join(f'coalesce({table}.id, -1) AS {table}' for table in tables)} FROM {_ROWS}"
            + "".join(
                f" LEFT JOIN {table} ON {_cast(names[column], kind)} = {table}.value"
                for table, (column, kind) in tables.items()
            )
        ).fetchnumpy()
        self._connection.unregister(_ROWS)
        numbers = {table: np.empty(len(rows), dtype=np.int32) for table in tables}
        for table, ids in numbers.items():
            ids[found[_PLACE]] = found[table]
        return {part: numbers[part.table] for part in self._numbered}

    def _number(self, key: str, kind: str, column: str) -> KeyPart:
        table = f"__numbered_{len(self._numbered)}"
        self._connection.execute(
            f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT value, (row_number() OVER () - 1)::INTEGER AS id FROM "
            f"(SELECT DISTINCT {_cast(column, kind)} AS value FROM {self._asked[column]} WHERE {quote(column)} IS NOT NULL)"
        )
        ((size,),) = self._connection.execute(f"SELECT count(*) FROM {table}").fetchall()
        return KeyPart(key, table, size)


def _cast(column: str, kind: str) -> str:
    return f"CAST({quote(column)} AS {kind})"
