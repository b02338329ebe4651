"""Rows that ask where no one gave any: every moment at which a view's source has a row of somebody.

Feast's retrieval by ``start_date`` and ``end_date``, of windowed views as of plain ones.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import duckdb
from feast import FeatureView

from feature_repo.lake import quote
from feature_repo.windows.event_scan import column_types
from feature_repo.windows.plain import DUMMY_KEY
from feature_repo.windows.retrieval import EntityRows
from feature_repo.windows.sources import instant_sql, source_sql, within_sql

TIME = "event_timestamp"


def asked_columns(views: Sequence[FeatureView]) -> list[str]:
    """The columns of the rows: the views' join keys as renamed, in their order, and the time."""
    keys = {name for view in views for name in _join_keys(view)}
    return [*sorted(keys), TIME]


def source_rows(
    connection: duckdb.DuckDBPyConnection,
    views: Sequence[FeatureView],
    repo_path: Path | None,
    start: datetime | None,
    end: datetime | None,
) -> EntityRows:
    """Each time in ``[start, end]``, and entities, that stand together in a row of a source: once, in the order of time.

    Of a source that lacks the column of a key, the key is null. Rows in which all keys are null are nobody's, so left out, but
    where the views have no entities.

    Args:
        start, end: None is open. Without a zone they are UTC, as in Feast.

    Raises:
        ValueError: a source lacks the key of its own view. FileNotFoundError: a source is not there.
    """
    names = asked_columns(views)
    selects = []
    for (source, time), keys in _sources(views, repo_path).items():
        types = column_types(connection, source)
        selects.append(_select(source, types, keys, names, within_sql(time, types, start, end), time))
    order = ", ".join(quote(name) for name in [TIME, *names[:-1]])
    query = f"SELECT {', '.join(map(quote, names))} FROM ({' UNION '.join(selects)}) ORDER BY {order}"
    table = connection.sql(query).to_arrow_table()
    return EntityRows(table, TIME, table.column(TIME).cast("int64").to_numpy(), None)


def _sources(
    views: Sequence[FeatureView], repo_path: Path | None
) -> Mapping[tuple[str, str], dict[str, str]]:
    """The source's column for each column of the rows, by table expression and time of each source."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for view in views:
        batch = view.batch_source
        columns = found.setdefault((source_sql(batch, repo_path), batch.timestamp_field), {})
        columns |= _join_keys(view)
    return found


def _join_keys(view: FeatureView) -> dict[str, str]:
    """The view's join key for each column of the rows."""
    renamed = view.projection.join_key_map or {}
    return {renamed.get(key, key): key for key in view.join_keys if key != DUMMY_KEY}


def _select(
    source: str, types: Mapping[str, str], keys: Mapping[str, str], names: Sequence[str], within: str, time: str
) -> str:  # fmt: skip
    missing = sorted(set(keys.values()) - types.keys())
    if missing:
        raise ValueError(f"source: no column {missing}; it has {sorted(types)}")
    # A source may have the key of another's view under its own name.
    columns = {name: key for name in names[:-1] if (key := keys.get(name, name)) in types}
    somebody = " OR ".join(f"{quote(key)} IS NOT NULL" for key in columns.values()) or "false"
    outputs = [
        f"{quote(columns[name]) if name in columns else 'NULL'} AS {quote(name)}" for name in names[:-1]
    ]
    outputs.append(f"make_timestamptz(epoch_us({instant_sql(time, types)})) AS {quote(TIME)}")
    nobodys = "" if len(names) == 1 else f" AND ({somebody})"
    return f"SELECT DISTINCT {', '.join(outputs)} FROM {source} WHERE {within}{nobodys}"
