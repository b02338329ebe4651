"""What a windowed view declares, read from a native Feast ``StreamFeatureView`` into one frozen plan.

The plan is all that the kernel, the offline store, the online store and the compute engine know of a view: they never
look at Feast objects again, so a view means the same wherever it is computed.
"""

import hashlib
import json
import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from datetime import timedelta
from functools import cached_property

import numpy as np
from feast import Entity, FeatureView, StreamFeatureView
from feast.feature_view import DUMMY_ENTITY_NAME
from feast.infra.offline_stores.file_source import FileSource
from feast.types import Int64
from numpy.typing import NDArray

from feature_repo.windows.durations import microseconds, parse_duration
from feature_repo.windows.functions import FUNCTIONS, PERCENTILES, Function
from feature_repo.windows.plain_data import from_data
from feature_repo.windows.predicate import Predicate
from feature_repo.windows.transform import TIME, Transform, resolve

# Windowed views are what Feast calls experimental, and what this project makes work; it need not say so at each load.
warnings.filterwarnings("ignore", message="Stream feature views are experimental", category=RuntimeWarning)

WHERE_TAG, DELAY_TAG, EVENT_ID_TAG, SCALE_TAG, CONDITIONS_TAG, DERIVED_TAG, CORRECTED_TAG = (
    "window.where",
    "window.delay",
    "window.event_id",
    "window.scale",
    "window.conditions",
    "window.derived",
    "window.corrected",
)
# Part of every state key: a new record format never reads the bytes of an old one.
STATE_FORMAT = 2


@dataclass(frozen=True, order=True)
class StoredColumn:
    """A value kept with each event: ``number`` as a scaled int64, ``code`` as 64 bits of the value's MD5."""

    name: str
    kind: str
    scale: int = 0


@dataclass(frozen=True)
class Aggregate:
    """One output of a view: ``function`` of ``column`` over ``window_us`` microseconds."""

    name: str
    function: str
    column: str
    window_us: int

    @property
    def row(self) -> Function:
        """The function's row in the table of functions."""
        return FUNCTIONS[self.function]


@dataclass(frozen=True)
class Derived:
    """One derived column, resolved: with all that it is computed from, so that it means the same wherever it is computed.

    Attributes:
        name: of the column. output: the feature that it holds. scale: decimal places kept.
        views: the windowed views that it reads. reads: names of their outputs, and of event columns, that it is made of.
        transform: path and digest of the transform that makes ``output`` of them, or two empty texts if a view does.
        as_of: column of the source that says as of when the event was scored, null where it was not; or empty.
        source: the source whose events have it; events of another source take it over by event id. Empty: the view's own.
    """

    name: str
    output: str
    scale: int
    views: tuple["ViewSpec", ...]
    reads: tuple[str, ...]
    transform: tuple[str, str] = ("", "")
    as_of: str = ""
    source: str = ""

    @cached_property
    def digest(self) -> str:
        """Names the meaning of the column. 64 hex digits."""
        return _digest([*self._content, self.source])

    @cached_property
    def key(self) -> str:
        """Names the column's values among those of the events that have it, whoever takes them over."""
        return f"{self.name}:{_digest(self._content)[:16]}"

    @property
    def _content(self) -> list[object]:
        views = [view.only(set(self.reads)).digest for view in self.views]
        return [self.name, self.output, self.scale, views, self.transform, self.as_of]

    @cached_property
    def function(self) -> Transform | None:
        """The transform.

        Raises:
            ValueError: its code is not what it was when the column was declared.
        """
        path, digest = self.transform
        if not path:
            return None
        found = resolve(path)
        if found.digest != digest:
            raise ValueError(
                f"derived column {self.name!r}: the code of transform {path} has changed since it was declared; "
                "run feast apply, and materialize the views that read it"
            )
        return found

    @cached_property
    def event_columns(self) -> tuple[str, ...]:
        """The columns of an event that it is made of, besides the event's time."""
        computed = {a.name for view in self.views for a in view.aggregates}
        return tuple(sorted(set(self.reads) - computed - {TIME}))


@dataclass(frozen=True)
class ViewSpec:
    """A windowed view, resolved.

    Attributes:
        view: the Feast view's name.
        source: name of the batch source whose events it aggregates; also the name events are recorded under.
        keys: the view's join keys, in the order of its entities, as columns of the source.
        event_id: column that identifies an event; deliveries of one id count once.
        timestamp: event-time column. ``created``: known-time column, or empty when events are known as they happen.
        where: filter as SQL text, empty for all events.
        delay_us: how long an event waits before it counts, in microseconds.
        aggregates: outputs, in declaration order.
        scales: decimal places of decimal columns, as (column, places).
        conditions: boolean columns computed from an event's own, as (name, SQL text), by name.
        derived: columns computed when an event happened, from features of that moment; by name.
        corrected: the source may hold several versions of an event. Of those known at an instant the one known last counts,
            if it passes the filter; else an event's first row is all there is of it.
    """

    view: str
    source: str
    keys: tuple[str, ...]
    event_id: str
    timestamp: str
    created: str
    where: str
    delay_us: int
    aggregates: tuple[Aggregate, ...]
    scales: tuple[tuple[str, int], ...] = ()
    conditions: tuple[tuple[str, str], ...] = ()
    derived: tuple[Derived, ...] = ()
    corrected: bool = False

    @cached_property
    def predicate(self) -> Predicate | None:
        """The parsed filter, or None for a view of all events."""
        return Predicate(self.where) if self.where else None

    @cached_property
    def columns(self) -> tuple[StoredColumn, ...]:
        """The values kept with each event, sorted."""
        scales = dict(self.scales) | {each.name: each.scale for each in self.derived}
        return tuple(
            sorted(
                {
                    StoredColumn(
                        a.column, a.row.needs, scales.get(a.column, 0) if a.row.needs == "number" else 0
                    )
                    for a in self.aggregates
                    if a.row.needs != "events"
                }
            )
        )

    @cached_property
    def windows_us(self) -> tuple[int, ...]:
        """The distinct windows, ascending."""
        return tuple(sorted({a.window_us for a in self.aggregates}))

    @property
    def horizon_us(self) -> int:
        """How far before an instant its oldest countable event may lie."""
        return self.delay_us + self.windows_us[-1]

    @cached_property
    def tests(self) -> tuple[tuple[str, Predicate], ...]:
        """The conditions, parsed."""
        return tuple((name, Predicate(text, CONDITIONS_TAG)) for name, text in self.conditions)

    @cached_property
    def ranked(self) -> frozenset[str]:
        """The columns of which percentiles are asked."""
        return frozenset(a.column for a in self.aggregates if a.function in PERCENTILES)

    @property
    def ordered(self) -> bool:
        """Whether events at one instant must be put in the order of their ids."""
        return any(a.row.ordered for a in self.aggregates)

    @cached_property
    def program(self) -> NDArray[np.int64]:
        """The aggregates for the kernel, int64[a, 3]: function, index in ``columns`` (-1 none), index in ``windows_us``."""
        columns = {(column.name, column.kind): index for index, column in enumerate(self.columns)}
        windows = {window: index for index, window in enumerate(self.windows_us)}
        rows = [
            (a.row.code, columns.get((a.column, a.row.needs), -1), windows[a.window_us])
            for a in self.aggregates
        ]
        return np.array(rows, dtype=np.int64).reshape(-1, 3)

    @cached_property
    def windows(self) -> NDArray[np.int64]:
        """``windows_us`` as int64[w]."""
        return np.array(self.windows_us, dtype=np.int64)

    @cached_property
    def whole(self) -> NDArray[np.bool_]:
        """Which outputs are integers, bool[a]; the others are floats."""
        return np.array([a.row.returns == Int64 for a in self.aggregates], dtype=np.bool_)

    def only(self, names: set[str]) -> "ViewSpec":
        """The same view with just these outputs, in declaration order."""
        kept = tuple(a for a in self.aggregates if a.name in names)
        return replace(self, aggregates=kept)

    @cached_property
    def state_digest(self) -> str:
        """Names the state's content and format: views that would keep other bytes never share a key. 16 hex digits."""
        content = [
            STATE_FORMAT,
            self.source,
            self.keys,
            self.event_id,
            self.timestamp,
            self.created,
            self.where,
        ]
        layout = [[c.name, c.kind, c.scale] for c in self.columns]
        computed = [self.conditions, [each.digest for each in self.derived], self.corrected]
        # What is kept of sealed events beside them: histograms of some columns, and how far an index of compared values reaches.
        counted = [a.window_us for a in self.aggregates if a.function == "count_distinct"]
        summed = [sorted(self.ranked), self.delay_us > 0, *([max(counted)] if counted else [])]
        return _digest([*content, layout, self.horizon_us, computed, summed])[:16]

    @cached_property
    def digest(self) -> str:
        """Names the meaning of every output: equal digests give equal bits. 64 hex digits."""
        apart = ("aggregates", "derived")
        fields = {f.name: getattr(self, f.name) for f in dataclass_fields(self) if f.name not in apart}
        fields["derived"] = [each.digest for each in self.derived]
        outputs = [[a.name, a.function, a.column, a.window_us] for a in self.aggregates]
        return _digest([STATE_FORMAT, sorted(fields.items()), outputs])


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, default=list).encode()).hexdigest()


def is_windowed(view: object) -> bool:
    """Whether this project computes the view: a stream feature view with aggregations."""
    return isinstance(view, StreamFeatureView) and bool(view.aggregations)


def view_spec(view: FeatureView, entities: list[Entity]) -> ViewSpec:
    """Resolve a Feast view, checking all of it.

    Args:
        view: a stream feature view with aggregations, fresh or from a registry.
        entities: the entities that it names, in any order.

    Raises:
        ValueError: anything that the engine cannot compute exactly; the message names view, part and way out.
    """
    source = _file_source(view)
    join_keys = {entity.name: entity.join_key for entity in entities}
    return _resolved(
        view, source, tuple(join_keys[name] for name in view.entities if name != DUMMY_ENTITY_NAME)
    )


def _file_source(view: FeatureView) -> FileSource:
    source = view.batch_source
    if not isinstance(source, FileSource):
        raise ValueError(
            f"{view.name}: batch source {type(source).__name__}: the windows engine reads file and Delta sources"
        )
    if not view.timestamp_field:
        raise ValueError(f"{view.name}: no timestamp_field; name the source's event-time column")
    return source


def _resolved(view: FeatureView, source: FileSource, keys: tuple[str, ...]) -> ViewSpec:
    try:
        where = Predicate(view.tags[WHERE_TAG]).sql if view.tags.get(WHERE_TAG) else ""
        delay = parse_duration(view.tags.get(DELAY_TAG, "0s"))
    except ValueError as error:
        raise ValueError(f"{view.name}: {error}") from error
    spec = ViewSpec(
        view=view.name,
        source=source.name,
        keys=keys,
        event_id=view.tags.get(EVENT_ID_TAG, ""),
        timestamp=view.timestamp_field,
        created=source.created_timestamp_column or "",
        where=where,
        delay_us=microseconds(delay),
        aggregates=tuple(_aggregate(view.name, a) for a in view.aggregations),
        scales=_scales(view.name, view.tags.get(SCALE_TAG, "{}")),
        conditions=_conditions(view.name, view.tags.get(CONDITIONS_TAG, "{}")),
        derived=_derived(view.name, view.tags.get(DERIVED_TAG, "[]")),
        corrected=view.tags.get(CORRECTED_TAG) == "true",
    )
    _check(spec)
    return spec


def _scales(view: str, text: str) -> tuple[tuple[str, int], ...]:
    try:
        scales = json.loads(text)
    except json.JSONDecodeError:
        scales = None
    if not isinstance(scales, dict) or not all(type(s) is int and 0 <= s <= 18 for s in scales.values()):
        raise ValueError(
            f'{view}: {SCALE_TAG} {text!r}: not decimal places, 0 to 18, by column; write {{"amount": 2}}'
        )
    return tuple(sorted(scales.items()))


def _conditions(view: str, text: str) -> tuple[tuple[str, str], ...]:
    try:
        declared = json.loads(text)
        return tuple(sorted((name, Predicate(each, CONDITIONS_TAG).sql) for name, each in declared.items()))
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{view}: {CONDITIONS_TAG} {text!r}: not SQL conditions by column; write "
            '{"declined": "status = \'declined\'"}'
        ) from error
    except ValueError as error:
        raise ValueError(f"{view}: {error}") from error


def _derived(view: str, text: str) -> tuple[Derived, ...]:
    try:
        return tuple(from_data(Derived, each) for each in json.loads(text))
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{view}: {DERIVED_TAG}: {error}; declare derived columns with derive(), and run feast apply"
        ) from error


def _aggregate(view: str, declared: object) -> Aggregate:
    function = getattr(declared, "function", "")
    window = getattr(declared, "time_window", None)
    where = f"{view}: aggregation {getattr(declared, 'name', '') or declared!r}"
    if function not in FUNCTIONS:
        raise ValueError(f"{where}: function {function!r} is not known; use one of {', '.join(FUNCTIONS)}")
    if not isinstance(window, timedelta) or window <= timedelta(0):
        raise ValueError(f"{where}: time_window is {window}; give a positive timedelta")
    column = getattr(declared, "column", "")
    if (FUNCTIONS[function].needs != "events") and not column:
        raise ValueError(f"{where}: {function} needs a column; name one")
    name = getattr(declared, "name", "") or f"{function}_{column}_{int(window.total_seconds())}s"
    return Aggregate(
        name, function, column if FUNCTIONS[function].needs != "events" else "", microseconds(window)
    )


def check_computed(spec: ViewSpec, source: Collection[str]) -> None:
    """Refuse a computed column that is called as one of the ``source``'s columns, or as another computed one.

    Raises:
        ValueError: names it.
    """
    computed = [name for name, _ in spec.conditions] + [column.name for column in spec.derived]
    for name in computed:
        if name in source:
            raise ValueError(
                f"{spec.view}: column {name!r}: it is a column of source {spec.source!r}; "
                "give the computed one another name"
            )
        if computed.count(name) > 1:
            raise ValueError(
                f"{spec.view}: column {name!r}: it is computed twice; give one of them another name"
            )


def _check(spec: ViewSpec) -> None:
    # The other columns of the source are known once it is read.
    check_computed(spec, (*spec.keys, spec.event_id, spec.timestamp, spec.created))
    names = [a.name for a in spec.aggregates]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(f"{spec.view}: aggregations {doubled} are declared twice; remove one of each")
    numbers = {column.name for column in spec.columns if column.kind == "number"}
    for column, places in spec.scales:
        if column not in numbers:
            raise ValueError(
                f"{spec.view}: {SCALE_TAG} of {places} for column {column!r}, of which no number is aggregated; "
                f"there are {', '.join(sorted(numbers)) or 'none'}"
            )
    if not spec.keys:
        raise ValueError(f"{spec.view}: no entity; windows are kept by key, so name at least one entity")
    if not spec.event_id:
        raise ValueError(
            f"{spec.view}: tag {EVENT_ID_TAG} is missing; name the column that identifies an event"
        )
