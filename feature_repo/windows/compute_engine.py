"""The engine behind ``feast materialize``: history into the online state of windowed views.

For a windowed view, ``materialize START END`` loads every event that became known in ``[START, END)`` and that a window asked
at END or later can still reach. Going by known time makes incremental loads complete: an event that happened before the last
load and became known after it is in the next. Loading is idempotent, and events recorded live meanwhile stay. Plain views go
to Feast's local engine.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import duckdb
import pyarrow as pa
from feast.infra.common.materialization_job import (
    MaterializationJob,
    MaterializationJobStatus,
    MaterializationTask,
)
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.registry.base_registry import BaseRegistry

from feature_repo.lake import quote
from feature_repo.windows.event_columns import EventColumns, Wanted, recorded_sql, sources_of
from feature_repo.windows.event_scan import column_types
from feature_repo.windows.event_sql import check_columns, column_sql, event_number_sql, refuse_nulls
from feature_repo.windows.head import NOTHING_DROPPED
from feature_repo.windows.history_writer import HistoryWriter
from feature_repo.windows.keys import floor_key, lifetime_s, loaded_key, retention_us, view_prefix
from feature_repo.windows.live import await_recorders
from feature_repo.windows.scalars import from_microseconds, to_microseconds
from feature_repo.windows.sources import instant_sql, source_sql
from feature_repo.windows.spec import ViewSpec, is_windowed, view_spec

_BATCH_ROWS = 1_000_000
# Key types whose text is the same wherever a state is named: here, by who records, and by who asks.
_KEY_TYPES = {
    "VARCHAR", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
    "BOOLEAN", "DATE", "DOUBLE", "UUID",
}  # fmt: skip


class WindowedComputeEngine(LocalComputeEngine):
    """Materializes windowed views as state, plain views as Feast does."""

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> MaterializationJob:
        if not is_windowed(task.feature_view):
            return super()._materialize_one(registry, task, **kwargs)
        job_id = f"{task.feature_view.name}-{task.start_time}-{task.end_time}"
        try:
            self._load(registry, task)
        except Exception as error:
            return LocalMaterializationJob(job_id=job_id, status=MaterializationJobStatus.ERROR, error=error)
        return LocalMaterializationJob(job_id=job_id, status=MaterializationJobStatus.SUCCEEDED)

    def _load(self, registry: BaseRegistry, task: MaterializationTask) -> None:
        view = task.feature_view
        spec = view_spec(view, [registry.get_entity(name, task.project) for name in view.entities])
        source = source_sql(view.batch_source, self.repo_config.repo_path)
        client = self.online_store._get_client(self.repo_config.online_store)
        start, end = to_microseconds(task.start_time), to_microseconds(task.end_time)
        prefix = view_prefix(task.project, spec)
        missed = await_recorders(client, task.project, spec, end)
        known = client.get(loaded_key(task.project, spec))
        loaded = None if known is None else int(known)
        sources = sources_of(registry, task.project, [spec])
        with duckdb.connect() as connection, EventColumns(connection, self.repo_config, sources) as columns:
            connection.execute("SET TimeZone = 'UTC'")
            load = HistoryLoad(connection, spec, source, (start, end), loaded, columns)
            load.refuse_a_gap()
            load.refuse_what_lacks(missed)
            self._raise_floor(client, floor_key(task.project, spec), load.floor(), lifetime_s(spec))
            total = load.keys()
            bar = task.tqdm_builder(total) if task.tqdm_builder else None
            writer = HistoryWriter(client, spec, prefix)
            for batch in load.batches():
                keys = writer.write(batch)
                if bar is not None:
                    bar.update(keys)
            if bar is not None:
                bar.close()
        ended = end if loaded is None else max(end, loaded)
        client.set(loaded_key(task.project, spec), ended, ex=lifetime_s(spec))

    @staticmethod
    def _raise_floor(client: Any, key: bytes, floor: int, lifetime: int) -> None:
        """Say what is left out before anything is there, so that no question is answered without it."""
        highest = max(floor, int(client.get(key) or NOTHING_DROPPED))
        if highest > NOTHING_DROPPED:
            client.set(key, highest, ex=lifetime)


class HistoryLoad:
    """What one materialization of one view reads, and the writes it comes to.

    Args:
        known: range of known time, microseconds, end excluded.
        loaded: where the last load ended, microseconds; None before the first.
        columns: computes those that the view reads and its source lacks.

    Raises:
        ValueError: see ``check_columns``, ``refuse_nulls`` and ``EventColumns``; a key of a type that names no state.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        spec: ViewSpec,
        source: str,
        known: tuple[int, int],
        loaded: int | None,
        columns: EventColumns,
    ) -> None:
        self._connection, self._spec, self._source, self._loaded = connection, spec, source, loaded
        self._start, end = known
        self._oldest = end - retention_us(spec)
        types, condition, reached = column_types(connection, source), "", spec
        if spec.derived:
            # What was loaded before is not computed again, nor what is too old to be loaded: of that the times tell enough.
            first = None if loaded is None else min(loaded, self._start)
            condition = recorded_sql(spec, types, self._oldest, first, end)
            reached = replace(spec, aggregates=(), where="", conditions=(), derived=())
        (table,) = columns.tables([Wanted(spec, source, condition)])
        made = column_types(connection, table)
        check_columns(spec, made)
        _check_keys(spec, made)
        refuse_nulls(connection, spec, source)
        self._known = f"epoch_us({instant_sql(spec.created or spec.timestamp, types)})"
        self._select = events_sql(spec, table, made, end)
        self._every = events_sql(reached, source if spec.derived else table, made, end)

    def refuse_a_gap(self) -> None:
        """Refuse a load that leaves out events which the windows would need.

        Raises:
            ValueError: there are such events; the message names the start that has them all.
        """
        loaded = self._loaded
        query = (
            f"SELECT min(__known), count(*) FROM ({self._select}) WHERE __time >= {self._oldest} "
            f"AND __known < {self._start}" + (f" AND __known >= {loaded}" if loaded is not None else "")
        )
        ((earliest, missing),) = self._connection.execute(query).fetchall()
        if missing:
            raise ValueError(
                f"{self._spec.view}: {missing} events that its windows reach became known before the start "
                f"{from_microseconds(self._start)}; materialize from {from_microseconds(earliest)} or earlier"
            )

    def refuse_what_lacks(self, missed: int | None) -> None:
        """Refuse a history that does not hold yet what was recorded live before recorders wrote this definition.

        Args:
            missed: see ``await_recorders``.

        Raises:
            ValueError: its newest event was known before then.
        """
        ((newest,),) = self._connection.execute(f"SELECT max({self._known}) FROM {self._source}").fetchall()
        if missed is not None and (newest is None or newest < missed):
            raise ValueError(
                f"{self._spec.view}: events known up to {from_microseconds(missed)} were recorded live and are not in "
                f"{self._spec.source!r} yet; load what the service recorded (fraud backfill does), then materialize"
            )

    def keys(self) -> int:
        """How many keys have events to load."""
        names = ", ".join(quote(key) for key in self._spec.keys)
        ((count,),) = self._connection.execute(
            f"SELECT count(*) FROM (SELECT DISTINCT {names} FROM ({self._wanted()}))"
        ).fetchall()
        return int(count)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """What is to be loaded, by key, then time."""
        names = [quote(key) for key in self._spec.keys]
        query = f"{self._wanted()} ORDER BY {', '.join(names)}, __time, __id, __known"
        yield from self._connection.sql(query).to_arrow_reader(_BATCH_ROWS)

    def _wanted(self) -> str:
        return f"SELECT * FROM ({self._select}) WHERE __time >= {self._oldest} AND __known >= {self._start}"

    def floor(self) -> int:
        """The newest event time that neither this load nor one before it brings, for it is too old; else ``NOTHING_DROPPED``.

        Of a view with derived columns no filter is asked: an event that may not have passed counts as left out.
        """
        loaded = self._loaded
        query = f"SELECT max(__time) FROM ({self._every}) WHERE __time < {self._oldest}" + (
            f" AND __known >= {loaded}" if loaded is not None else ""
        )
        ((newest,),) = self._connection.execute(query).fetchall()
        return NOTHING_DROPPED if newest is None else int(newest)


def _check_keys(spec: ViewSpec, types: dict[str, str]) -> None:
    for key in spec.keys:
        if types[key] not in _KEY_TYPES:
            raise ValueError(
                f"{spec.view}: join key {key!r} of {spec.source!r} is {types[key]}; states are named by the text of their keys, "
                "which is written in several ways for this type: store text, an integer or a date"
            )


def events_sql(spec: ViewSpec, source: str, types: dict[str, str], end: int) -> str:
    """All events of a view known before ``end`` as records: keys as text, ``__time``, ``__known``, ``__id``, ``__v0``..."""
    time = f"epoch_us({instant_sql(spec.timestamp, types)})"
    known = f"epoch_us({instant_sql(spec.created, types)})" if spec.created else time
    keys = ", ".join(f"CAST({quote(key)} AS VARCHAR) AS {quote(key)}" for key in spec.keys)
    present = "".join(f" AND {quote(key)} IS NOT NULL" for key in spec.keys)
    stored = "".join(f", {column_sql(spec, c, types)} AS __v{i}" for i, c in enumerate(spec.columns))
    counts = f"coalesce({spec.where}, FALSE)" if spec.where else "TRUE"
    # An event that no longer passes the filter still hides its older versions.
    void, where = (f", NOT {counts} AS __void", "") if spec.corrected else ("", f" AND {counts}")
    identity = event_number_sql(spec.event_id)
    return (
        f"SELECT {keys}, {time} AS __time, {known} AS __known, {identity} AS __id{void}{stored} FROM {source} "
        f"WHERE {known} < {end}{present}{where}"
    )
