"""``fraud features``: what each feature of a FeatureService is, read from the definitions.

It reads the Python objects, not the registry, so it shows what the next ``feast apply`` would register and needs no deployment.
"""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields

from feast import Entity, FeatureView
from feast.on_demand_feature_view import OnDemandFeatureView
from rich.table import Table

from feature_repo.store import defined_service
from feature_repo.windows.durations import format_duration
from feature_repo.windows.spec import ViewSpec, is_windowed, view_spec
from feature_repo.windows.state import from_microseconds
from feature_repo.windows.transform import declared_transform

__all__ = ["FeatureRow", "feature_rows", "filters", "markdown", "table", "view_rows"]

_EPOCH = from_microseconds(0)


@dataclass(frozen=True)
class FeatureRow:
    """One feature as text; what does not apply is empty.

    Attributes:
        feature, view: names. key: its join keys; ``request`` for what the transaction alone says.
        computed: ``function(column)`` of a windowed feature, ``function(source)`` of one that needs no column, and
            ``transform name`` of one that is made from others.
        window, delay: lengths such as ``7d``. filter: SQL over the event's columns.
    """

    feature: str
    view: str
    key: str
    computed: str
    window: str = ""
    delay: str = ""
    filter: str = ""


_HEADINGS = tuple(field.name for field in fields(FeatureRow))


def feature_rows(name: str) -> list[FeatureRow]:
    """The features of a FeatureService, in its order, which is a model's.

    Raises:
        ValueError: no FeatureService of the definitions has this name.
    """
    from feature_repo import definitions

    service = defined_service(name)
    objects = [getattr(definitions, each) for each in definitions.__all__]
    views = {each.name: each for each in objects if isinstance(each, FeatureView | OnDemandFeatureView)}
    entities = {each.name: each for each in objects if isinstance(each, Entity)}
    return [
        row
        for projection in service.feature_view_projections
        for row in view_rows(views, entities, projection.name, [field.name for field in projection.features])
    ]


def filters(rows: Sequence[FeatureRow]) -> list[str]:
    """The distinct filters, in order of appearance; tables name them by their place here, from 1."""
    return list(dict.fromkeys(row.filter for row in rows if row.filter))


def table(name: str) -> tuple[Table, list[str]]:
    """The features for a terminal, and a line a filter to stand below."""
    rows = feature_rows(name)
    shown = Table(*_HEADINGS, title=f"{name}: {len(rows)} features")
    for column in shown.columns:
        column.overflow = "fold"
    for cells in _cells(rows):
        shown.add_row(*cells)
    return shown, _legend(rows)


def markdown(name: str) -> str:
    """The same as a Markdown table, ending with a newline."""
    rows = feature_rows(name)
    lines = [_HEADINGS, ("---",) * len(_HEADINGS), *_cells(rows)]
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    legend = "\n".join(f"- {line}" for line in _legend(rows, "`"))
    return f"{text}\n" + (f"\n{legend}\n" if legend else "")


def view_rows(
    views: dict[str, FeatureView | OnDemandFeatureView], entities: dict[str, Entity], name: str, features: list[str]
) -> Iterator[FeatureRow]:  # fmt: skip
    """Some features of one of the views, in the order given."""
    view = views[name]
    if isinstance(view, OnDemandFeatureView):
        declared = declared_transform(view)
        what = declared.path.partition(":")[2] if declared else view.feature_transformation.udf_string
        keys = {
            key: None
            for source in view.source_feature_view_projections.values()
            for key in _keys(views[source.name], entities)
        }
        key = ", ".join(keys) or "request"
        yield from (FeatureRow(feature, name, key, f"transform {what}") for feature in features)
    elif is_windowed(view):
        spec = view_spec(view, [entities[each] for each in view.entities])
        by_name = {row.feature: row for row in _windowed(spec)}
        yield from (by_name[feature] for feature in features)
    else:
        key = ", ".join(_keys(view, entities))
        yield from (FeatureRow(feature, name, key, f"newest({feature})") for feature in features)


def _windowed(spec: ViewSpec) -> Iterator[FeatureRow]:
    for each in spec.aggregates:
        yield FeatureRow(
            each.name,
            spec.view,
            ", ".join(spec.keys),
            f"{each.function}({each.column or spec.source})",
            _length(each.window_us),
            _length(spec.delay_us) if spec.delay_us else "",
            spec.where,
        )


def _keys(view: FeatureView, entities: dict[str, Entity]) -> list[str]:
    return [entities[each].join_key for each in view.entities if each in entities]


def _length(micros: int) -> str:
    return format_duration(from_microseconds(micros) - _EPOCH)


def _cells(rows: Sequence[FeatureRow]) -> Iterator[tuple[str, ...]]:
    number = {text: str(place) for place, text in enumerate(filters(rows), 1)}
    for row in rows:
        yield (*astuple(row)[:-1], f"({number[row.filter]})" if row.filter else "")


def _legend(rows: Sequence[FeatureRow], quote: str = "") -> list[str]:
    return [f"filter ({place}): {quote}{text}{quote}" for place, text in enumerate(filters(rows), 1)]
