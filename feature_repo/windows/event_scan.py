"""What one source is read for: the SQL of its events between two instants, with everything that its views need of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.lake import quote
from feature_repo.windows.cuts import between_sql, counted, histogram_sql
from feature_repo.windows.event_sql import column_sql, refuse_nulls
from feature_repo.windows.kernel import NULL
from feature_repo.windows.memory import Growing
from feature_repo.windows.sources import SourceTable, instant_sql
from feature_repo.windows.spec import StoredColumn, ViewSpec

Integers = NDArray[np.int64]
# Types whose values are equal just when their texts are, and which DuckDB hashes without making one.
_HASHED = {"VARCHAR", "BIGINT", "INTEGER", "SMALLINT", "TINYINT", "BOOLEAN", "DATE"}
# Events that are taken over at a time: large enough to cost little, small enough that their memory is used again.
_BATCH = 100_000


@dataclass(frozen=True)
class KeyPart:
    """A key column of a source, and the table that numbers the values asked of it: ``value``, ``id`` from 0 to ``size - 1``."""

    column: str
    table: str
    size: int


@dataclass(frozen=True, order=True)
class Field:
    """A stored column as one source is read for it; views may call different conditions by one name."""

    column: StoredColumn
    sql: str


class Ids:
    """Ids of events as they are read. A part of a batch would keep all of it alive, so each is a copy."""

    def __init__(self, expected: int, kind: pa.DataType) -> None:
        self._kind = kind
        self._numbers = Growing(expected if pa.types.is_uint64(kind) else 0)
        self._texts: list[pa.Array] = []

    def extend(self, ids: pa.Array) -> None:
        """Append the ids of a batch."""
        if pa.types.is_uint64(self._kind):
            self._numbers.extend(integers(ids))
        else:
            self._texts.append(pa.concat_arrays([ids[:0], ids]))

    def take(self, positions: NDArray[np.int32]) -> pa.Array | pa.ChunkedArray:
        """Those of some events."""
        if pa.types.is_uint64(self._kind):
            return pa.array(self._numbers.values[positions].view(np.uint64))
        return pa.chunked_array(self._texts, self._kind).take(pa.array(positions))


@dataclass(frozen=True)
class Piece:
    """Events of one source in [lo, hi), in the order of the read.

    Attributes:
        times, known: int64[n] microseconds UTC; known is None where each event was known as it happened.
        ids: the events' ids; 64-bit numbers that tell them apart where their order does not matter.
        keys: int32[n] for each key part, -1 where the value is not asked.
        values: int64[n] for each field, ``NULL`` where null.
        passes: bool[n] for each filter.
    """

    times: Integers
    known: Integers | None
    ids: Ids
    keys: dict[KeyPart, NDArray[np.int32]]
    values: dict[Field, Integers]
    passes: dict[str, NDArray[np.bool_]]

    def __len__(self) -> int:
        return len(self.times)


class EventScan:
    """Reads one source for all of its views.

    Args:
        specs: views of this source that agree on its time, known-time and id columns.
        source: its events. types: of its columns.
        parts: the key parts of each view, in the order of ``specs``.

    Raises:
        ValueError: see ``stored_sql`` and ``refuse_nulls``.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        specs: Sequence[ViewSpec],
        source: SourceTable,
        types: dict[str, str],
        parts: Sequence[Sequence[KeyPart]],
    ) -> None:
        self._connection = connection
        self._source, self._rows = source.sql, source.rows
        self._spec = specs[0]
        self._types = types
        refuse_nulls(connection, specs[0], source.sql, source.full)
        self.parts = tuple(dict.fromkeys(part for each in parts for part in each))
        self.fields = [fields_of(spec, self._types) for spec in specs]
        self._fields = tuple(sorted({field for each in self.fields for field in each}))
        self._ordered = any(spec.ordered for spec in specs)
        self._filters = tuple(dict.fromkeys(spec.where for spec in specs if spec.where))
        # An event that fails the filter hides its older versions, so it is read.
        filters = ["" if spec.corrected else spec.where for spec in specs]
        self._wanted = tuple(dict.fromkeys(zip(map(tuple, parts), filters, strict=True)))

    @property
    def _moment(self) -> str:
        return instant_sql(self._spec.timestamp, self._types)

    def sql(self, lo: int, hi: int) -> str:
        """The query of ``read``."""
        inner = [f"epoch_us({self._moment}) AS __time", f"{self._id_sql()} AS __id"]
        if self._spec.created:
            inner.append(f"epoch_us({instant_sql(self._spec.created, self._types)}) AS __known")
        inner += [f"{quote(part.column)} AS __k{i}" for i, part in enumerate(self.parts)]
        values = [self._value_sql(i) for i in range(len(self._fields))]
        inner += [value for value, _ in values if value]
        inner += [f"coalesce(({where}), false) AS __w{i}" for i, where in enumerate(self._filters)]
        outer = ["__time", "__id", *(["__known"] if self._spec.created else [])]
        outer += [f"coalesce(i{i}.id, -1) AS __k{i}" for i in range(len(self.parts))]
        outer += [value for _, value in values] + [f"__w{i}" for i in range(len(self._filters))]
        joins = "".join(
            f" LEFT JOIN {p.table} i{i} ON e.__k{i} = i{i}.value" for i, p in enumerate(self.parts)
        )
        wanted = " OR ".join(f"({self._wanted_sql(parts, where)})" for parts, where in self._wanted)
        return (
            f"SELECT {', '.join(outer)} FROM (SELECT {', '.join(inner)} FROM {self._source} "
            f"WHERE {between_sql(self._moment, lo, hi)}) e{joins} WHERE {wanted}"
        )

    def read(self, lo: int, hi: int, expected: int) -> Piece:
        """The events of [lo, hi) microseconds that some view counts for some key that is asked.

        Args:
            expected: about how many there are.

        Raises:
            ValueError: a number is -2**63, which stands for null here.
        """
        reader = self._connection.sql(self.sql(lo, hi)).to_arrow_reader(_BATCH)
        times, known = Growing(expected), None
        keys = [Growing(expected, np.int32) for _ in self.parts]
        values = [Growing(expected) for _ in self._fields]
        passes = [Growing(expected, np.bool_) for _ in self._filters]
        ids = Ids(expected, reader.schema.field("__id").type)
        for batch in reader:
            if self._spec.created and (known or not batch["__known"].equals(batch["__time"])):
                known = known or _copied(times, expected)
                known.extend(integers(batch["__known"]))
            times.extend(integers(batch["__time"]))
            ids.extend(batch["__id"])
            for i, key in enumerate(keys):
                key.extend(batch[f"__k{i}"].to_numpy())
            for i, (field, value) in enumerate(zip(self._fields, values, strict=True)):
                value.extend(self._numbers(field, batch[f"__v{i}"]))
            for i, passing in enumerate(passes):
                passing.extend(batch[f"__w{i}"].to_numpy(zero_copy_only=False))
        return Piece(
            times=times.values,
            known=known.values if known else None,
            ids=ids,
            keys={part: key.values for part, key in zip(self.parts, keys, strict=True)},
            values={field: value.values for field, value in zip(self._fields, values, strict=True)},
            passes={where: passing.values for where, passing in zip(self._filters, passes, strict=True)},
        )

    def count(self) -> int:
        """How many events there are."""
        if self._rows is not None:
            return self._rows
        ((count,),) = self._connection.execute(f"SELECT count(*) FROM {self._source}").fetchall()
        return int(count)

    def span(self) -> tuple[int, int] | None:
        """The first and the last event time, microseconds; None of no events."""
        query = f"SELECT epoch_us(min({self._moment})), epoch_us(max({self._moment})) FROM {self._source}"
        ((first, last),) = self._connection.execute(query).fetchall()
        return None if first is None else (first, last)

    def histogram(self, lo: int, hi: int, buckets: int) -> tuple[int, Integers]:
        """Events in [lo, hi) by time: the width of a bucket in microseconds, and int64[buckets] counts."""
        width = max((hi - lo + buckets - 1) // buckets, 1)
        query = histogram_sql(self._moment, self._source, between_sql(self._moment, lo, hi), lo, width)
        return width, counted(self._connection.execute(query).fetchnumpy(), buckets)

    def _id_sql(self) -> str:
        name, kind = quote(self._spec.event_id), self._types[self._spec.event_id]
        if not self._ordered:
            return _hash_sql(name, kind)
        return name if kind == "VARCHAR" else f"CAST({name} AS VARCHAR)"

    def _value_sql(self, i: int) -> tuple[str, str]:
        """``__v{i}`` as it is read from the source, or nothing, and as it is selected beside the keys' numbers."""
        column = self._fields[i].column
        numbered = [k for k, part in enumerate(self.parts) if part.column == column.name]
        if column.kind != "code" or not numbered:
            return f"{self._fields[i].sql} AS __v{i}", f"__v{i}"
        # A value that has a number needs no other code.
        number, text = f"i{numbered[0]}.id", f"e.__k{numbered[0]}"
        code = f"WHEN {text} IS NOT NULL THEN {_hash_sql(text, self._types[column.name])}"
        return "", f"CASE WHEN {number} IS NOT NULL THEN CAST({number} AS UBIGINT) {code} END AS __v{i}"

    def _wanted_sql(self, parts: Sequence[KeyPart], where: str) -> str:
        conditions = [f"i{self.parts.index(part)}.id IS NOT NULL" for part in parts]
        conditions += [f"__w{self._filters.index(where)}"] if where else []
        return " AND ".join(conditions)

    def _numbers(self, field: Field, values: pa.Array) -> Integers:
        numbers = integers(values)
        if field.column.kind == "number" and (numbers == NULL).sum() > values.null_count:
            raise ValueError(
                f"{self._spec.view}: column {field.column.name!r} holds {int(NULL)}, which no amount is and which stands for "
                "null here; store null where there is no value"
            )
        return numbers


def column_types(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, str]:
    """The DuckDB type of each column of a table expression."""
    query = f"SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM {source})"
    return dict(connection.execute(query).fetchall())


def integers(column: pa.ChunkedArray | pa.Array) -> Integers:
    """A column as contiguous int64; nulls become the kernel's null, 64-bit codes keep their bits."""
    if column.null_count:
        column = column.fill_null(
            pa.scalar(int(NULL) + (2**64 if pa.types.is_uint64(column.type) else 0), column.type)
        )
    values = column.to_numpy()
    return np.ascontiguousarray(values if values.dtype == np.int64 else values.view(np.int64))


def _copied(column: Growing, expected: int) -> Growing:
    copy = Growing(expected)
    copy.extend(column.values)
    return copy


def fields_of(spec: ViewSpec, types: Mapping[str, str]) -> tuple[Field, ...]:
    """What is read for each of the view's columns; raises as ``stored_sql``."""
    return tuple(Field(column, _field_sql(spec, column, dict(types))) for column in spec.columns)


def _field_sql(spec: ViewSpec, column: StoredColumn, types: dict[str, str]) -> str:
    """A stored column as 64 bits. Codes are only compared, within this retrieval: the faster hash does."""
    if column.kind != "code" or column.name not in types:
        return column_sql(spec, column, types)
    name = quote(column.name)
    return f"CASE WHEN {name} IS NOT NULL THEN {_hash_sql(name, types[column.name])} END"


def _hash_sql(name: str, kind: str) -> str:
    return f"hash({name})" if kind in _HASHED else f"hash(CAST({name} AS VARCHAR))"
