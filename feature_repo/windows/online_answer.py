"""What an online request is answered: each view's rows, and what became of every value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from feast import Entity, FeatureStore, FeatureView, RepoConfig, utils
from feast.feature_view import DUMMY_ENTITY_ID
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Int64
from feast.value_type import ValueType

from feature_repo.windows.durations import microseconds
from feature_repo.windows.evaluate import Integers
from feature_repo.windows.kernel import NULL
from feature_repo.windows.plain_online import Found, PlainRows
from feature_repo.windows.question import Question
from feature_repo.windows.reading import StateReader, StateView
from feature_repo.windows.spec import ViewSpec, view_spec
from feature_repo.windows.state import from_microseconds


@dataclass(frozen=True)
class Row:
    """What one view answers for one entity row; without values, why."""

    time: datetime | None
    values: dict[str, Value] | None
    absent: Any = FieldStatus.NOT_FOUND


# A view, the features asked of it, and the entity of each row.
Asked = tuple[FeatureView, Sequence[str], list[EntityKey]]


def entity_keys(view: FeatureView, join_key_values: Mapping[str, Sequence[Value]]) -> list[EntityKey]:
    """The entity of each row, its join keys named as in the view."""
    renamed = view.projection.join_key_map or {}
    columns = []
    for key in view.join_keys:
        name = renamed.get(key, key)
        if name not in join_key_values:
            raise KeyError(
                f"{view.name}: join key {name!r} is not in the entity rows, which have {sorted(join_key_values)}"
            )
        for i, value in enumerate(join_key_values[name]):
            if value.WhichOneof("val") is None:
                raise ValueError(
                    f"entity rows: {name} is null in row {i}; leave the row out, nobody is meant"
                )
        columns.append(join_key_values[name])
    return [
        EntityKey(join_keys=view.join_keys, entity_values=values) for values in zip(*columns, strict=True)
    ]


def read_plain(
    client: Any, config: RepoConfig, asked: Sequence[Asked], question: Question
) -> dict[str, list[Row]]:
    """Plain views by name: each row's newest values, in one round trip."""
    if not asked:
        return {}
    pipeline = client.pipeline(transaction=False)
    pipeline.execute_command("TIME")
    commands = []
    for view, names, keys in asked:
        commands.append(PlainRows(client, config, view).commands(keys, names))
        for key, fields in dict(commands[-1]).items():
            pipeline.hmget(key, fields)
    (seconds, micros), *replies = pipeline.execute()
    now = int(seconds) * 1_000_000 + int(micros)
    remaining = iter(replies)
    rows = {}
    for (view, names, keys), sent in zip(asked, commands, strict=True):
        kept = PlainRows(client, config, view)
        found = {key: kept.found(names, next(remaining)) for key in dict(sent)}
        instants = [now] * len(keys) if question.instants is None else question.instants.tolist()
        ttl = microseconds(view.ttl) if getattr(view, "ttl", None) else 0
        rows[view.projection.name_to_use()] = [
            _plain_row(found[key], instant, ttl) for (key, _), instant in zip(sent, instants, strict=True)
        ]
    return rows


def _plain_row(found: Found | None, instant: int, ttl: int) -> Row:
    """A row as old as the ttl is still given, as offline."""
    if found is None:
        return Row(None, None)
    time = from_microseconds(found.time_us)
    if ttl and instant - found.time_us > ttl:
        return Row(time, None, FieldStatus.OUTSIDE_MAX_AGE)
    return Row(time, found.values)


def read_windows(
    client: Any, config: RepoConfig, asked: Sequence[Asked], question: Question, join_keys: Mapping[str, str]
) -> dict[str, list[Row]]:
    """Windowed views by name: each row's windows as of its instant, in one read.

    Args:
        join_keys: of several entities' names; that of a single one is the view's.
    """
    if not asked:
        return {}
    views = []
    rows: list[dict[str, Any]] = [{} for _ in asked[0][2]]
    for place, (view, _, keys) in enumerate(asked):
        # Two views may rename one join key differently, so each has columns of its own.
        spec = _spec(view, join_keys)
        views.append(StateView(spec, config.project, tuple(f"{place}:{key}" for key in spec.keys)))
        for row, key in zip(rows, keys, strict=True):
            for name, value in zip(key.join_keys, key.entity_values, strict=True):
                row[f"{place}:{name}"] = getattr(value, value.WhichOneof("val"))
    reader = StateReader.kept(client, views)
    results, instants, _ = reader.read(rows, question.instants, question.known_as_of)
    return {
        view.projection.name_to_use(): _window_rows(state_view.spec, set(names), values, instants)
        for (view, names, _), state_view, (values, _) in zip(asked, views, results, strict=True)
    }


def _spec(view: FeatureView, join_keys: Mapping[str, str]) -> ViewSpec:
    """The view resolved, once for as long as Feast keeps the view."""
    kept: ViewSpec | None = view.__dict__.get("_window_spec")
    if kept is None:
        # Feast keeps the columns of a view's entities in an order of its own.
        columns = [column.name for column in view.entity_columns]
        named = [join_keys.get(name, "") for name in view.entities]
        keys = named if sorted(named) == sorted(columns) else columns
        kept = view_spec(
            view,
            [
                Entity(name=name, join_keys=[key], value_type=ValueType.STRING)
                for name, key in zip(view.entities, keys, strict=True)
            ],
        )
        view.__dict__["_window_spec"] = kept
    return kept


def declared_join_keys(config: RepoConfig) -> dict[str, str]:
    return {entity.name: entity.join_key for entity in FeatureStore(config=config).list_entities()}


def _window_rows(spec: ViewSpec, names: set[str], values: Integers, instants: Integers) -> list[Row]:
    rows = []
    for instant, row in zip(instants, values, strict=True):
        features = {
            aggregate.name: _proto(value, aggregate.row.returns == Int64)
            for aggregate, value in zip(spec.aggregates, row, strict=True)
            if aggregate.name in names
        }
        rows.append(Row(from_microseconds(int(instant)), features))
    return rows


def _proto(value: np.int64, whole: bool) -> Value:
    if whole:
        return Value() if value == NULL else Value(int64_val=int(value))
    real = float(value.view(np.float64))
    return Value() if np.isnan(real) else Value(double_val=real)


def populate(
    response: GetOnlineFeaturesResponse, view: FeatureView, names: list[str], rows: Sequence[Row],
    full_feature_names: bool, with_versions: bool,
) -> None:  # fmt: skip
    """Add a view's features to the response, and say of every value that is not given why."""
    first = len(response.results)
    utils._populate_response_from_feature_data(
        names, [(row.time, row.values) for row in rows], [[i] for i in range(len(rows))], response,
        full_feature_names, view, len(rows), with_versions,
    )  # fmt: skip
    for vector in response.results[first:]:
        for i, (row, value) in enumerate(zip(rows, vector.values, strict=True)):
            if row.values is None:
                vector.statuses[i] = row.absent
            elif value.WhichOneof("val") is None:
                vector.statuses[i] = FieldStatus.NULL_VALUE


def no_rows(registry: Any, project: str, features: Any, full_feature_names: bool) -> OnlineResponse:
    """The answer to no rows: the names of the join keys and features that a row would have."""
    context = utils._get_online_request_context(registry, project, features, full_feature_names)
    refs, grouped = context[0], context[5]
    keys = {
        (view.projection.join_key_map or {}).get(key, key) for view, _ in grouped for key in view.join_keys
    }
    parsed = [utils._parse_feature_ref(ref) for ref in refs]
    names = [f"{view}__{feature}" if full_feature_names else feature for view, _, feature in parsed]
    response = GetOnlineFeaturesResponse()
    response.metadata.feature_names.val.extend([*sorted(keys - {DUMMY_ENTITY_ID}), *names])
    response.results.extend(
        GetOnlineFeaturesResponse.FeatureVector() for _ in response.metadata.feature_names.val
    )
    return OnlineResponse(response)
