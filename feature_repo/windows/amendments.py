"""What Feast 0.67 gets wrong where it cannot be overridden, amended in place.

- ``feast feature-views list`` looks up the views behind an on-demand view among the plain ones only: a repository with on-demand
  views over stream views could not be listed.
- ``feast plan`` compares stream views with the registry's own notes on their sources, so that each is updated every time, and
  does not compare their aggregations unless a view has a function of its own.
- ``feast apply`` keeps a view's first source: a path, a format or a column that changed later was not heard of. And it
  makes a new version of a stream view each time, for the registry counts the join keys among its features.
- ``feast delete`` cannot delete a view without entities, which Feast hands out without its made-up one; and of an on-demand
  view that is stored online the rows stay.
- ``write_to_online_store`` leaves rows out, with a warning, whose every value is null: a value was not corrected to null.
  Events pushed to a windowed view lack the columns of its results: the way out is said instead of their names.
- A column of integers with a null among them is materialized and written through floats: beyond 2**53 others are served.
- A FeatureService that has a view both under its own name and under another cannot be compared with itself, so not be read.
- ``materialize-incremental`` starts a view without history a year, or its ttl, before now: what is older was never served. So it
  starts an on-demand view that is stored online each time. One over windows cannot be stored; that failed without naming either.
- ``feast registry-dump`` fails on a stream view without a function of its own.
"""

import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import cache
from types import MappingProxyType
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import Aggregation, FeatureStore, FeatureView, Field, StreamFeatureView, utils
from feast.data_source import DataSource
from feast.diff import registry_diff
from feast.diff.property_diff import PropertyDiff, TransitionType
from feast.errors import FeatureViewNotFoundException
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_NAME
from feast.feature_view_projection import FeatureViewProjection
from feast.infra.compute_engines.backends.pandas_backend import PandasBackend
from feast.infra.registry.registry import Registry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.protos.feast.types.Value_pb2 import ValueType
from feast.type_map import python_values_to_proto_values
from feast.types import String

from feature_repo.windows.pull import first_instant
from feature_repo.windows.spec import is_windowed

_get_plain_view = Registry.get_feature_view
_apply_as_feast_does = FeatureStore.apply
_proto_values_as_feast_does = utils._columns_to_proto_values
_diff_as_feast_sees = registry_diff.diff_registry_objects
_materialize_from_last = FeatureStore.materialize_incremental
_sorted_dict_as_feast_does = Registry._message_to_sorted_dict
_materialize_odfv = FeatureStore._materialize_odfv
_last_materialized = FeatureView.most_recent_end_time

_NOWHERE: Mapping[str, datetime] = MappingProxyType({})
# Compared in another form than the registry's, or not what a person declares.
_OTHERWISE = frozenset(
    {
        "aggregations", "batch_source", "entities", "entity_columns", "feature_transformation", "features", "project",
        "stream_source", "tags", "ttl", "user_defined_function",
    }
)  # fmt: skip
# What an apply changes in the registry without a new version of the view.
_NOTES = frozenset(
    {
        "description",
        "disabled",
        "enable_validation",
        "offline",
        "online",
        "org",
        "owner",
        "tags",
        "ttl",
        "version",
    }
)
_STARTS: ContextVar[Mapping[str, datetime]] = ContextVar("starts", default=_NOWHERE)


def _get_view(self: Registry, name: str, project: str, allow_cache: bool = False) -> FeatureView:
    """As Feast's, and a stream view where there is no plain one."""
    try:
        return _get_plain_view(self, name, project, allow_cache)
    except FeatureViewNotFoundException:
        return self.get_stream_feature_view(name, project, allow_cache)


def _changed(self: FeatureView, other: Any) -> bool:
    """Whether a view is declared differently in more than ``_NOTES``."""
    if type(self) is not type(other):
        return True
    was, will = _declared(other), _declared(self)
    return any(was[name] != will[name] for name in was if name not in _NOTES)


def _diff(current: Any, new: Any, object_type: Any) -> Any:
    """As Feast's, but of views what a person declared, and of that what differs."""
    if not isinstance(current, FeatureView):
        return _diff_as_feast_sees(current, new, object_type)
    was, will = _declared(current), _declared(new)
    changes = [
        PropertyDiff(name, *_difference(was[name], will[name])) for name in was if was[name] != will[name]
    ]
    transition = TransitionType.UPDATE if changes else TransitionType.UNCHANGED
    return registry_diff.FeastObjectDiff(new.name, object_type, current, new, changes, transition)


def _declared(view: FeatureView) -> dict[str, Any]:
    """What a view declares, by the names of Feast's registry, as text; several named things as texts by name."""
    spec = view.to_proto().spec
    keys = {column.name for column in spec.entity_columns}
    values: dict[str, Any] = {
        field.name: str(getattr(spec, field.name))
        for field in spec.DESCRIPTOR.fields
        if field.name not in _OTHERWISE
    }
    values["entities"] = ", ".join(spec.entities)
    values["entity_columns"] = {column.name: _field(column) for column in spec.entity_columns}
    values["features"] = {field.name: _field(field) for field in spec.features if field.name not in keys}
    values["tags"] = {name: f"{name}={value}" for name, value in spec.tags.items()}
    values["ttl"] = str(view.ttl)
    values["source"] = {"batch": _source(view.batch_source), "stream": _source(view.stream_source)}
    if isinstance(view, StreamFeatureView):
        values["aggregations"] = {each.name: _aggregation(each) for each in view.aggregations}
        values["function"] = view.udf_string or ""
    return values


def _field(field: Any) -> str:
    tags = "".join(f", {name}={value}" for name, value in sorted(field.tags.items()))
    return f"{field.name} ({ValueType.Enum.Name(field.value_type)}{tags})"


def _aggregation(each: Aggregation) -> str:
    return f"{each.name} ({each.function} of {each.column or 'events'} over {each.time_window})"


def _source(source: DataSource | None) -> str:
    """A source without the notes that Feast makes on when it was registered."""
    if source is None:
        return ""
    spec = source.to_proto()
    spec.ClearField("meta")
    spec.ClearField("batch_source")
    return " ".join(str(spec).split())


def _difference(was: Any, will: Any) -> tuple[str, str]:
    """Both values as text; of several named things those that differ."""
    if not isinstance(was, dict):
        return was, will
    return _only(was, will), _only(will, was)


def _only(these: Mapping[str, str], others: Mapping[str, str]) -> str:
    return ", ".join(these[name] for name in sorted(these) if these[name] != others.get(name)) or "none"


def refuse_values(view: Any) -> None:
    """Raise ValueError if the view is a windowed one; it is fed with events."""
    if is_windowed(view):
        raise ValueError(
            f"{view.name}: a windowed view keeps events, not values; record events "
            "(feature_repo.windows.recorder.EventRecorder), or load history with feast materialize"
        )


def _write(self: FeatureStore, feature_view_name: str, *args: Any, **kwargs: Any) -> None:
    """As Feast's, of nulls as of values; but not of a windowed view."""
    view, frame = _to_write(self, feature_view_name, *args, **kwargs)
    if frame is not None:
        self._get_provider().ingest_df(view, frame)


async def _write_async(self: FeatureStore, feature_view_name: str, *args: Any, **kwargs: Any) -> None:
    """``_write``, asynchronously."""
    view, frame = _to_write(self, feature_view_name, *args, **kwargs)
    if frame is not None:
        await self._get_provider().ingest_df_async(view, frame)


def _to_write(self: FeatureStore, *args: Any, **kwargs: Any) -> tuple[Any, pd.DataFrame | None]:
    """The view, and what is to be written to it; None of no rows."""
    view, frame = self._get_feature_view_and_df_for_online_write(*args, **kwargs)
    refuse_values(view)
    if frame is None or frame.empty:
        warnings.warn(f"{view.name}: no rows to write to the online store", stacklevel=3)
        return view, None
    missing = [field.name for field in view.features if field.name not in frame.columns]
    if missing:
        raise KeyError(f"{view.name}: no column {missing} in the rows, which have {sorted(frame.columns)}")
    return view, frame


def _to_pandas(self: PandasBackend, table: pa.Table) -> pd.DataFrame:
    """As Feast's, with integers that stay integers beside nulls."""
    frame: pd.DataFrame = table.to_pandas(integer_object_nulls=True)
    return frame


def _proto_values(
    table: pa.RecordBatch, columns: list[tuple[str, Any]], allow_missing: bool = False
) -> dict[str, list[Any]]:
    """As Feast's, with integers that stay integers beside nulls."""
    broken = {
        name
        for name in table.schema.names
        if pa.types.is_integer(table.schema.field(name).type) and table.column(name).null_count
    }
    sound = [(name, kind) for name, kind in columns if name not in broken]
    values: dict[str, list[Any]] = _proto_values_as_feast_does(table, sound, allow_missing)
    for name, kind in columns:
        if name in broken:
            values[name] = python_values_to_proto_values(table.column(name).to_pylist(), kind)
    return values


def _before(self: FeatureViewProjection, other: FeatureViewProjection) -> bool:
    """The order of projections, by the names that they go by."""
    return bool(self.name_to_use() < other.name_to_use())


def _apply(
    self: FeatureStore, objects: Any, objects_to_delete: list[Any] | None = None, *args: Any, **kwargs: Any
) -> None:
    """As Feast's; a view that Feast took the made-up entity from gets it back, a stored on-demand view's rows go with it."""
    for view in objects if isinstance(objects, list) else [objects]:
        if isinstance(view, FeatureView) and not view.entities:
            view.entities = [DUMMY_ENTITY_NAME]
            view.entity_columns = [Field(name=DUMMY_ENTITY_ID, dtype=String)]
    _apply_as_feast_does(self, objects, objects_to_delete, *args, **kwargs)
    for view in objects_to_delete or []:
        if isinstance(view, OnDemandFeatureView) and view.write_to_online_store:
            self._get_provider().online_store.update(self.config, [view], [], [], [], partial=True)


def _materialize_incremental(
    self: FeatureStore, end_date: datetime, feature_views: list[str] | None = None, *args: Any, **kwargs: Any
) -> None:
    """As Feast's; a view without history from its source's first event."""
    token = _STARTS.set(_first_instants(self, feature_views))
    try:
        _materialize_from_last(self, end_date, feature_views, *args, **kwargs)
    finally:
        _STARTS.reset(token)


def _first_instants(store: FeatureStore, names: list[str] | None) -> Mapping[str, datetime]:
    """Where views without history begin; ``_NOWHERE`` of stores that are not this project's."""
    has_history = getattr(store._get_provider().online_store, "has_history", None)
    if has_history is None:
        return _NOWHERE
    starts = {}
    for view in [*store.list_feature_views(), *store.list_stream_feature_views()]:
        entities = [store.get_entity(name) for name in view.entities]
        if (names is None or view.name in names) and not has_history(store.config, view, entities):
            first = first_instant(view.batch_source, store.config.repo_path)
            if first is not None:
                starts[view.name] = first
    return starts


def _materialize_on_demand(
    self: FeatureStore, feature_view: Any, start_date: datetime, *args: Any, **kwargs: Any
) -> None:
    """As Feast's; but ``materialize-incremental`` begins where its views do, if rows of one of them never grow old.

    Raises:
        ValueError: one of its views is windowed: its values hold for an instant, so none are there to compute from.
    """
    projections = feature_view.source_feature_view_projections.values()
    views = [self._get_feature_view(projection.name) for projection in projections]
    windowed = [view.name for view in views if is_windowed(view)]
    if windowed:
        raise ValueError(
            f"{feature_view.name}: what is computed from a window holds for an instant only and cannot be stored, and view "
            f"{windowed[0]!r} is windowed; declare {feature_view.name} without write_to_online_store, and it is computed when it "
            "is asked for"
        )
    # An incremental run has no other start for it than its views' ttl, or a year.
    if _STARTS.get() is not _NOWHERE and not all(view.ttl for view in views):
        sources = [view.batch_source for view in views if view.batch_source]
        firsts = [first_instant(source, self.config.repo_path) for source in sources]
        start_date = min([utils.make_tzaware(start_date), *(first for first in firsts if first)])
    _materialize_odfv(self, feature_view, start_date, *args, **kwargs)


def _sorted_dict(message: Any) -> dict[str, Any]:
    """As Feast's, which fills in the function of every stream view, with one to be filled in for a view that has none."""
    shown: dict[str, Any] = _sorted_dict_as_feast_does(message)
    if type(message).__name__ == "StreamFeatureView":
        shown["spec"].setdefault("userDefinedFunction", {})
    return shown


def _most_recent_end_time(self: FeatureView) -> datetime | None:
    """As Feast's, but where ``materialize-incremental`` has found that the view begins elsewhere."""
    last: datetime | None = _last_materialized.fget(self)
    return _STARTS.get().get(self.name, last)


@cache
def install() -> None:
    """Amend Feast, once in a process."""
    Registry.get_feature_view = _get_view
    FeatureView._schema_or_udf_changed = _changed
    StreamFeatureView._schema_or_udf_changed = _changed
    FeatureStore.apply = _apply
    FeatureStore.write_to_online_store = _write
    FeatureStore.write_to_online_store_async = _write_async
    PandasBackend.from_arrow = _to_pandas
    utils._columns_to_proto_values = _proto_values
    FeatureViewProjection.__lt__ = _before
    registry_diff.diff_registry_objects = _diff
    FeatureStore.materialize_incremental = _materialize_incremental
    Registry._message_to_sorted_dict = staticmethod(_sorted_dict)
    FeatureStore._materialize_odfv = _materialize_on_demand
    FeatureView.most_recent_end_time = property(_most_recent_end_time)
