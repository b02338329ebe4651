"""What a change of definitions comes to: models that read it, state to be loaded again, values before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
from feast import FeatureStore

from feature_repo.lake import quote, snapshot
from feature_repo.settings import Settings
from feature_repo.windows.keys import retention_us
from feature_repo.windows.resolve import Resolved
from feature_repo.windows.sources import instant_sql, source_sql
from feature_repo.windows.spec import ViewSpec
from pipelines.plan_changes import FeatureChange, ServiceChange
from training.dataset import ENTITY_COLUMNS, entity_frame
from training.registry import MODEL_NAME, load_version
from training.tracking import connect

__all__ = ["Column", "Model", "Rebuild", "Sample", "models", "rebuild", "sample"]

# Of an event: time and number; a number; a code; known time where the source has one. Of a key: its name and Redis' own.
_EVENT_BYTES, _NUMBER_BYTES, _CODE_BYTES, _KNOWN_BYTES, _KEY_BYTES = 13, 4, 7, 3, 180


@dataclass(frozen=True)
class Model:
    """A registered version that reads a changed feature.

    Attributes:
        aliases: such as ``champion``; versions without any are told of, and nothing is loaded of them.
        features: the changed ones that it reads.
        afterwards: what becomes of it when the definitions are applied.
    """

    version: str
    aliases: tuple[str, ...]
    feature_service: str
    features: tuple[str, ...]
    afterwards: str


@dataclass(frozen=True)
class Rebuild:
    """State that starts empty: one ``feast materialize`` of the view loads it.

    Attributes:
        keys, events: counted in the lake as it is. bytes: about how much they take in Redis.
    """

    view: str
    keys: int
    events: int
    bytes: int


@dataclass(frozen=True)
class Column:
    """A changed feature's values for the sample's rows; None where there is no such feature, or no value.

    Attributes:
        differing: rows whose value is another.
    """

    view: str
    feature: str
    was: tuple[float | None, ...]
    now: tuple[float | None, ...]

    @property
    def differing(self) -> int:
        return sum(was != now for was, now in zip(self.was, self.now, strict=True))


@dataclass(frozen=True)
class Sample:
    """Old and new values for the newest transactions.

    Attributes:
        rows: (transaction id, event time as text), oldest first.
    """

    rows: tuple[tuple[str, str], ...] = ()
    columns: tuple[Column, ...] = ()


def models(here: Settings, services: Sequence[ServiceChange]) -> list[Model]:
    """The registered versions whose FeatureService changes, newest first; none where nothing was ever trained."""
    if here.mlflow_uri is None and not (here.home / "mlflow.db").exists():
        return []
    client = connect()
    if not client.search_registered_models(f"name = '{MODEL_NAME}'"):
        return []
    aliases: dict[str, list[str]] = {}
    for alias, version in client.get_registered_model(MODEL_NAME).aliases.items():
        aliases.setdefault(str(version), []).append(alias)
    touched = {each.name: each for each in services if each.change != "added"}
    found = []
    for version in client.search_model_versions(f"name = '{MODEL_NAME}'"):
        parameters = client.get_run(version.run_id).data.params
        service = touched.get(parameters.get("dataset.feature_service", ""))
        if service is not None:
            named = tuple(sorted(aliases.get(str(version.version), [])))
            after = _afterwards(str(version.version)) if named else "has no alias: serves nowhere"
            found.append(Model(str(version.version), named, service.name, service.features, after))
    return sorted(found, key=lambda model: -int(model.version))


def _afterwards(version: str) -> str:
    try:
        own = load_version(version).spec.definitions
        if own is None:
            return "serves until the service restarts, then is refused: it has no definitions of its own; train anew"
        Resolved.from_data(own)
    except ValueError as error:
        return f"serves until the service restarts, then is refused: {error}"
    return "is served on by its own definitions; a model trained now has the new ones"


def rebuild(store: FeatureStore, specs: Sequence[ViewSpec]) -> list[Rebuild]:
    """What has to be loaded for each view of the store, from the lake as it is; nothing where there are no events."""
    return [_rebuild(store, spec) for spec in specs]


def _rebuild(store: FeatureStore, spec: ViewSpec) -> Rebuild:
    view = store.get_stream_feature_view(spec.view)
    try:
        source = source_sql(view.batch_source, store.repo_path)
    except FileNotFoundError:
        return Rebuild(spec.view, 0, 0, 0)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        described = connection.execute(
            f"SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM {source})"
        )
        time = f"epoch_us({instant_sql(spec.timestamp, dict(described.fetchall()))})"
        ((newest,),) = connection.execute(f"SELECT max({time}) FROM {source}").fetchall()
        if newest is None:
            return Rebuild(spec.view, 0, 0, 0)
        wanted = [
            f"{time} >= {newest - retention_us(spec)}",
            *(f"{quote(key)} IS NOT NULL" for key in spec.keys),
        ]
        try:
            count, events = _count(connection, spec, source, [*wanted, *([spec.where] if spec.where else [])])
        except duckdb.BinderException:
            # A filter on a derived column, which stands in no file: what passes it is known when it is loaded.
            count, events = _count(connection, spec, source, wanted)
    each = _EVENT_BYTES + (_KNOWN_BYTES if spec.created else 0)
    each += sum(_NUMBER_BYTES if column.kind == "number" else _CODE_BYTES for column in spec.columns)
    return Rebuild(spec.view, count, events, events * each + count * _KEY_BYTES)


def _count(
    connection: duckdb.DuckDBPyConnection, spec: ViewSpec, source: str, wanted: Sequence[str]
) -> tuple[int, int]:
    """How many keys, and how many events, meet all conditions."""
    keys, where = ", ".join(map(quote, spec.keys)), " AND ".join(f"({each})" for each in wanted)
    each = f"SELECT count(*) AS events FROM {source} WHERE {where} GROUP BY {keys}"
    ((count, events),) = connection.execute(
        f"SELECT count(*), coalesce(sum(events), 0) FROM ({each})"
    ).fetchall()
    return int(count), int(events)


def sample(
    was: FeatureStore | None, now: FeatureStore, changes: Sequence[FeatureChange], lake: Path, rows: int
) -> Sample:
    """Values of the changed features for the newest transactions of the lake, as known at each one's own instant.

    Args:
        was, now: the stores before and after; ``was`` is None before the first apply.
    """
    newest = _newest(lake, rows)
    if not changes or newest is None:
        return Sample()
    frame = entity_frame(newest)
    old = {} if was is None else _values(was, frame, [c for c in changes if c.was is not None])
    new = _values(now, frame, [c for c in changes if c.now is not None])
    nothing = (None,) * len(frame)
    columns = [Column(*c.name, old.get(c.name, nothing), new.get(c.name, nothing)) for c in changes]
    ids, times = newest.column("transaction_id").to_pylist(), newest.column("event_timestamp").to_pylist()
    return Sample(tuple(zip(ids, (time.isoformat() for time in times), strict=True)), tuple(columns))


def _newest(lake: Path, rows: int) -> pa.Table | None:
    try:
        table = snapshot(lake / "transactions").sql
    except FileNotFoundError:
        return None
    columns = ", ".join(ENTITY_COLUMNS)
    query = f"SELECT {columns} FROM {table} ORDER BY event_timestamp DESC, transaction_id DESC LIMIT {rows}"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.sql(f"FROM ({query}) ORDER BY event_timestamp, transaction_id").to_arrow_table()
    return found if found.num_rows else None


def _values(
    store: FeatureStore, frame: pd.DataFrame, changes: Sequence[FeatureChange]
) -> Mapping[tuple[str, str], tuple[float | None, ...]]:
    if not changes:
        return {}
    names = [f"{view}:{feature}" for view, feature in (change.name for change in changes)]
    answer: Any = store.get_historical_features(frame, names, full_feature_names=True).to_arrow()
    return {
        change.name: tuple(answer.column(f"{change.view}__{change.feature}").to_pylist())
        for change in changes
    }
