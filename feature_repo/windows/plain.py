"""Plain feature views: the newest row at or before the instant, within ttl, by one ``ASOF`` join."""

import duckdb
import pyarrow as pa
from feast import FeatureView

from feature_repo.lake import quote
from feature_repo.windows.durations import microseconds
from feature_repo.windows.event_scan import column_types
from feature_repo.windows.sources import instant_sql

DUMMY_KEY = "__dummy_id"


def point_in_time_join(
    connection: duckdb.DuckDBPyConnection,
    view: FeatureView,
    source: str,
    join_keys: dict[str, str],
    features: list[str],
    filter_by_created: bool,
) -> dict[str, pa.ChunkedArray]:
    """The view's features for every row of ``asks``, in row order.

    Of the source's rows with the row's keys and a timestamp at or before its instant, the newest counts; of several with that
    timestamp, the one created last. Older than the ttl (if there is one) gives null.

    Args:
        filter_by_created: ignore source rows created after the row's ``__known``.
    """
    types = column_types(connection, source)
    query = join_sql(view, source, types, join_keys, features, filter_by_created)
    table = connection.sql(query).to_arrow_table()
    return {name: table.column(name) for name in features}


def join_sql(
    view: FeatureView, source: str, types: dict[str, str], join_keys: dict[str, str], features: list[str], filter_by_created: bool
) -> str:  # fmt: skip
    """The query of ``point_in_time_join``."""
    batch = view.batch_source
    keys = [key for key in join_keys if key != DUMMY_KEY]
    time = f"epoch_us({instant_sql(batch.timestamp_field, types)})"
    created = batch.created_timestamp_column
    known = f"epoch_us({instant_sql(created, types)})" if created else time
    columns = "".join(f", {quote(name)}" for name in [*keys, *features])
    newest = ", ".join([*(quote(key) for key in keys), "__time"])
    events = (
        f"SELECT {time} AS __time, {known} AS __created{columns} FROM {source} "
        f"WHERE {quote(batch.timestamp_field)} IS NOT NULL"
    )
    same = "".join(f"CAST(a.{quote(join_keys[key])} AS {types[key]}) = e.{quote(key)} AND " for key in keys)
    ttl = microseconds(view.ttl) if view.ttl else 0
    fresh = f" AND a.__instant - e.__time <= {ttl}" if ttl else ""
    outputs = "".join(f", {quote(name)}" for name in features)
    if filter_by_created and created:
        # What was known differs by row, so the newest known row is chosen row by row.
        joined = (
            f"SELECT a.__row, e.* FROM asks a LEFT JOIN ({events}) e ON {same}e.__time <= a.__instant "
            f"AND e.__created <= a.__known{fresh} "
            "QUALIFY row_number() OVER (PARTITION BY a.__row ORDER BY e.__time DESC, e.__created DESC) = 1"
        )
        return f"SELECT __row{outputs} FROM ({joined}) ORDER BY __row"
    last = f"SELECT * FROM ({events}) QUALIFY row_number() OVER (PARTITION BY {newest} ORDER BY __created DESC) = 1"
    found = "".join(
        f", CASE WHEN {ttl} = 0 OR a.__instant - e.__time <= {ttl} THEN e.{quote(name)} END AS {quote(name)}"
        for name in features
    )
    return f"SELECT a.__row{found} FROM asks a ASOF LEFT JOIN ({last}) e ON {same}a.__instant >= e.__time ORDER BY a.__row"
