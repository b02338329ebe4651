"""A plan as tables for a person."""

from collections.abc import Iterator
from dataclasses import fields

from rich.console import RenderableType
from rich.table import Table

from pipelines.features_table import FeatureRow
from pipelines.plan import Planned
from pipelines.plan_changes import FeatureChange
from pipelines.plan_effects import Column

__all__ = ["tables"]

_SIGNS = {"added": "[green]+ added[/]", "removed": "[red]- removed[/]", "changed": "[yellow]~ changed[/]"}
_SHOWN = 6


def tables(planned: Planned) -> Iterator[RenderableType]:
    """What changes, who reads it, what is loaded again, and values before and after; one line where nothing changes."""
    if planned.first:
        yield "Nothing is registered yet: this would be the first apply."
    if not planned.changes:
        yield "Nothing would change: every feature means what is registered."
        return
    if planned.features:
        yield _features(planned)
    if planned.services:
        yield _services(planned)
    if planned.models:
        yield _models(planned)
    if planned.rebuilt:
        yield _rebuilt(planned)
    if planned.sample.rows:
        yield _sample(planned)
    yield _next(planned)


def _features(planned: Planned) -> Table:
    table = Table("", "feature", "view", "was", "would be", title="Features", title_justify="left")
    for change in planned.features:
        was, now = _told(change)
        table.add_row(_SIGNS[change.change], change.feature, change.view, was, now)
    return table


def _told(change: FeatureChange) -> tuple[str, str]:
    """Each side in full where the other is not; else only what differs."""
    if change.was is None or change.now is None:
        return tuple("" if row is None else _text(row) for row in (change.was, change.now))  # type: ignore[return-value]
    differing = [
        name
        for name in (f.name for f in fields(FeatureRow))
        if getattr(change.was, name) != getattr(change.now, name)
    ]
    if not differing:
        return "", "another formula, or other inputs"
    return tuple(
        ", ".join(f"{name} {getattr(row, name) or 'none'}" for name in differing)
        for row in (change.was, change.now)
    )  # type: ignore[return-value]


def _text(row: FeatureRow) -> str:
    parts = [row.computed, row.window, f"delay {row.delay}" if row.delay else "", row.filter]
    return " ".join(part for part in parts if part) + f" by {row.key}"


def _services(planned: Planned) -> Table:
    table = Table("", "FeatureService", "changed features", title="FeatureServices", title_justify="left")
    for service in planned.services:
        table.add_row(_SIGNS[service.change], service.name, str(len(service.features)))
    return table


def _models(planned: Planned) -> Table:
    table = Table(
        "version", "alias", "reads", "changed features", "afterwards", title="Models", title_justify="left"
    )
    for model in planned.models:
        aliases = ", ".join(model.aliases)
        table.add_row(
            model.version, aliases, model.feature_service, str(len(model.features)), model.afterwards
        )
    return table


def _rebuilt(planned: Planned) -> Table:
    table = Table("view", "keys", "events", "about", title="Online state to be loaded", title_justify="left")
    for each in planned.rebuilt:
        table.add_row(each.view, f"{each.keys:,}", f"{each.events:,}", _size(each.bytes))
    return table


def _sample(planned: Planned) -> Table:
    count = len(planned.sample.rows)
    title = f"Values for the newest {count} transactions, was -> would be"
    table = Table("feature", "rows that differ", title=title, title_justify="left")
    shown = range(max(0, count - _SHOWN), count)
    for index in shown:
        table.add_column(planned.sample.rows[index][0], overflow="fold")
    for column in planned.sample.columns:
        table.add_row(
            column.feature, f"{column.differing} of {count}", *(_pair(column, index) for index in shown)
        )
    return table


def _pair(column: Column, index: int) -> str:
    was, now = column.was[index], column.now[index]
    return _value(now) if was == now else f"{_value(was)} -> {_value(now)}"


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:,.6g}"


def _next(planned: Planned) -> str:
    if planned.rebuilt:
        return "Next: feast -c feature_repo apply, then fraud backfill. The service goes on with the state that its model reads."
    return "Next: feast -c feature_repo apply. No state has to be loaded."


def _size(count: int) -> str:
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
