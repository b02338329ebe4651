"""What an event takes over from another source's event, looked up in history: one event, asked for now and then.

By the same code that loads history, so with the same bits.
"""

import duckdb
from feast import FeatureStore

from feature_repo.windows.event_columns import EventColumns, sources_of
from feature_repo.windows.event_values import LackingValueError, Values

__all__ = ["look_up"]


def look_up(store: FeatureStore, lacking: LackingValueError) -> dict[str, Values | None]:
    """The columns that an event lacks, by source; None of a source that holds no event of its id.

    It takes as long as to read the source's ids and the history of the event's keys, on one core: tenths of a second to seconds.

    Raises:
        FileNotFoundError: a source is not there. ValueError, TypeError: see ``EventColumns.tables``. duckdb.Error,
            deltalake.exceptions.DeltaError: one cannot be read.
    """
    spec, found = lacking.spec, dict[str, Values | None]()
    sources = sources_of(store.registry, store.project, [spec])
    with duckdb.connect() as connection, EventColumns(connection, store.config, sources) as columns:
        connection.execute("SET TimeZone = 'UTC'")
        # Whoever else is answered by this process has the other cores.
        connection.execute("SET threads = 1")
        for source in dict.fromkeys(column.source for column in lacking.columns):
            some = [column for column in lacking.columns if column.source == source]
            found[source] = columns.taken_over(spec, str(lacking.event_id), some)
    return found
