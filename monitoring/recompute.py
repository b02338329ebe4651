"""Features recomputed offline for journalled decisions, and what is needed to ask why they differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from feast import FeatureStore, RepoConfig
from feast.infra.offline_stores.file_source import FileSource
from feast.on_demand_feature_view import OnDemandFeatureView

from feature_repo.store import definitions_digest, service_features
from feature_repo.windows.event_columns import sources_of
from feature_repo.windows.sources import source_sql
from feature_repo.windows.spec import ViewSpec, is_windowed, view_spec
from feature_repo.windows.transform import TIME, Transform, declared_transform
from monitoring.decisions import Decisions

__all__ = ["Service", "WindowedView", "recompute", "resolve"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class WindowedView:
    """A windowed view of a service.

    Attributes:
        spec: its plan. source: its newest events as a DuckDB table expression.
        config, sources: what the columns that it computes are computed from.
    """

    spec: ViewSpec
    source: str
    config: RepoConfig
    sources: Mapping[str, FileSource]

    @property
    def outputs(self) -> frozenset[str]:
        """Names of its features."""
        return frozenset(aggregate.name for aggregate in self.spec.aggregates)


@dataclass(frozen=True)
class Service:
    """A FeatureService as it is defined now.

    Attributes:
        views: the windowed views that it reads, those behind its transforms included, by name.
        feeds: for each feature of a transform, the views whose windows the transform reads.
    """

    name: str
    feature_names: tuple[str, ...]
    digest: str
    views: Mapping[str, WindowedView]
    transforms: tuple[Transform, ...]
    feeds: Mapping[str, tuple[str, ...]]

    def views_of(self, feature: str) -> tuple[str, ...]:
        """The windowed views that a feature is made from; none for one of the request alone."""
        return self.feeds.get(feature) or tuple(
            n for n, view in self.views.items() if feature in view.outputs
        )


def resolve(store: FeatureStore, name: str) -> Service:
    """The FeatureService ``name`` with what it reads.

    Raises:
        FeatureServiceNotFoundException: the registry has none of that name.
    """
    service = store.get_feature_service(name)
    views: dict[str, WindowedView] = {}
    transforms: list[Transform] = []
    feeds: dict[str, tuple[str, ...]] = {}
    for projection in service.feature_view_projections:
        view = store.registry.get_any_feature_view(projection.name, store.project)
        if isinstance(view, OnDemandFeatureView):
            read = [source.name for source in view.source_feature_view_projections.values()]
            feeds |= dict.fromkeys((f.name for f in projection.features), tuple(read))
            declared = declared_transform(view)
            transforms += [declared] if declared else []
        else:
            read = [projection.name]
        views |= {each: found for each in read if (found := _windowed(store, each)) is not None}
    digest = definitions_digest(store, name)
    return Service(name, service_features(service), digest, views, tuple(transforms), feeds)


def recompute(
    store: FeatureStore, service: Service, rows: Decisions, known_as_of_us: Ints | None = None
) -> Floats:
    """The service's features of each decision, float64 [rows, features], null = NaN.

    Args:
        known_as_of_us: ask as of these instants instead of the journalled ones.
    """
    known = rows.known_as_of_us if known_as_of_us is None else known_as_of_us
    answer = store.get_historical_features(
        _entity_frame(rows, known), store.get_feature_service(service.name)
    ).to_arrow()
    columns = [_floats(answer.column(name)) for name in service.feature_names]
    return np.column_stack(columns) if columns else np.empty((len(rows), 0))


def consistent(
    transform: Transform, rows: Decisions, journalled: Mapping[str, Floats]
) -> dict[str, npt.NDArray[np.bool_]]:
    """For each output of a transform: whether it follows, to the bit, from the journalled inputs.

    Empty where the journal lacks an input.
    """
    columns = {TIME: np.floor_divide(rows.event_timestamp_us, 1_000_000).astype(np.float64), **journalled}
    for name in set(transform.inputs) - set(columns):
        if any(name not in request for request in rows.request):
            return {}
        columns[name] = np.array([_real(request[name]) for request in rows.request])
    found = transform({name: columns[name] for name in transform.inputs})
    return {
        name: same_bits(found[name], journalled[name]) for name in transform.outputs if name in journalled
    }


def same_bits(left: Floats, right: Floats) -> npt.NDArray[np.bool_]:
    """Element by element: the same 64 bits, or null (NaN of any kind) on both sides; so -0.0 is not 0.0."""
    bits = np.ascontiguousarray(left).view(np.int64) == np.ascontiguousarray(right).view(np.int64)
    return cast(npt.NDArray[np.bool_], bits | (np.isnan(left) & np.isnan(right)))


def _windowed(store: FeatureStore, name: str) -> WindowedView | None:
    view = store.registry.get_any_feature_view(name, store.project)
    if not is_windowed(view):
        return None
    spec = view_spec(view, [store.get_entity(entity) for entity in view.entities])
    sources = sources_of(store.registry, store.project, [spec])
    return WindowedView(spec, source_sql(view.batch_source, store.repo_path), store.config, sources)


def _entity_frame(rows: Decisions, known_as_of_us: Ints) -> pd.DataFrame:
    request: dict[str, Any] = {
        name: np.array([_real(values.get(name)) for values in rows.request])
        for name in sorted(set().union(*rows.request))
    }
    keys = {
        "transaction_id": rows.transaction_id,
        "customer_id": rows.customer_id,
        "terminal_id": rows.terminal_id,
        "event_timestamp": pd.to_datetime(rows.event_timestamp_us, unit="us", utc=True),
        "created_timestamp": pd.to_datetime(known_as_of_us, unit="us", utc=True),
        "event_timestamp_us": rows.event_timestamp_us,
    }
    return pd.DataFrame({**request, **keys})


def _real(value: float | int | None) -> float:
    return float("nan") if value is None else float(value)


def _floats(column: pa.ChunkedArray) -> Floats:
    values = column.cast(pa.float64()).fill_null(np.nan).to_numpy()
    return cast(Floats, np.ascontiguousarray(values))
