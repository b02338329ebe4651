"""Why a journalled value differs from the recomputed one.

=================  ===================================================================================
other_definitions  the decision was made under other feature definitions: the digests differ
other_model        the score is another model version's, or of a version that cannot be loaded
late_event         the service had seen an event that the lake says became known only later: asked
                   without the cut-off, the lake gives the journalled values (or so the counts say)
other_key          the values are those of another customer's or terminal's decision: a mis-join
missing_in_lake    the service had seen more events than the lake holds
missing_in_state   the service had seen fewer events than the lake knew by then
unexplained        the same number of events and still another value: altered, or computed otherwise
not_examined       more decisions differ than are looked into
=================  ===================================================================================

Reasons are found by evidence in that order; the first that holds is given. How many events the service had
seen is what the widest journalled count of the view says, and what the journal notes of the state's size
(which may also hold events that no window reaches any more: it decides only where it lies outside the bounds
that the lake sets).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.lake import quote
from feature_repo.windows.event_columns import EventColumns, Wanted
from monitoring.decisions import Decisions
from monitoring.recompute import Service, WindowedView, consistent, same_bits

__all__ = ["EXAMINED", "Reason", "attribute"]

Reason = Literal[
    "other_definitions",
    "other_model",
    "late_event",
    "other_key",
    "missing_in_lake",
    "missing_in_state",
    "unexplained",
    "not_examined",
]

EXAMINED: Final = 2_000
"""Differing decisions of a batch that are looked into: enough to tell what is wrong, and quick."""

# Fewer distinct values than this agree by coincidence between two keys.
FINGERPRINT = 3

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Compared:
    """Differing decisions of one service, row by row.

    Attributes:
        rows: the decisions. ``seen``, ``now``, ``later``: float64 [rows, features] in the service's order: as
        journalled,
            recomputed as of the journalled instant, and recomputed without a cut-off of known time.
        population: (keys, float64 [n, features]) of all decisions of the batch, recomputed: to find mis-joins
        in.
    """

    rows: Decisions
    seen: Floats
    now: Floats
    later: Floats
    population: tuple[Decisions, Floats]


def attribute(service: Service, compared: Compared) -> list[dict[str, Reason]]:
    """For each decision, a reason for each differing feature."""
    differs = ~same_bits(compared.seen, compared.now)
    altered = _altered(service, compared)
    by_view = {name: _of_view(service, view, compared) for name, view in service.views.items()}
    found: list[dict[str, Reason]] = []
    for row in range(len(compared.rows)):
        reasons: dict[str, Reason] = {}
        for name in (service.feature_names[column] for column in np.flatnonzero(differs[row])):
            if name in altered and altered[name][row]:
                reasons[name] = "unexplained"
            else:
                reasons[name] = _first([by_view[view][row] for view in service.views_of(name)])
        found.append(reasons)
    return found


_ORDER: Final[tuple[Reason, ...]] = (
    "late_event",
    "other_key",
    "missing_in_lake",
    "missing_in_state",
    "unexplained",
)


def _first(reasons: list[Reason]) -> Reason:
    return min(reasons, key=_ORDER.index, default="unexplained")


def _altered(service: Service, compared: Compared) -> Mapping[str, Bools]:
    """Features of transforms that do not follow from the journalled inputs: no event explains them."""
    journalled = {name: compared.seen[:, i] for i, name in enumerate(service.feature_names)}
    return {
        name: ~same
        for transform in service.transforms
        for name, same in consistent(transform, compared.rows, journalled).items()
    }


def _of_view(service: Service, view: WindowedView, compared: Compared) -> list[Reason]:
    """What differs between the service's and the lake's events of the view's key, for each decision."""
    columns = [i for i, name in enumerate(service.feature_names) if name in view.outputs]
    counter, window_us = _counter(service, view)
    counts = compared.seen[:, counter] if counter is not None else np.full(len(compared.rows), np.nan)
    states = [seen.get(view.spec.view) for seen in compared.rows.state_seen]
    events = _events(view, compared.rows, window_us)
    late = _late(compared, columns)
    swapped = _swapped(view, compared, columns) | _swapped(view, compared, _of_same_key(service, view))
    reasons: list[Reason] = []
    for row, there in enumerate(events):
        if late[row]:
            reasons.append("late_event")
        elif swapped[row]:
            reasons.append("other_key")
        else:
            reasons.append(_by_count(float(counts[row]), states[row], there))
    return reasons


def _by_count(count: float, state: int | None, there: "_There") -> Reason:
    """``count``: events that the service counted in the window (NaN: unknown); ``state``: in its state."""
    excess = max(0 if np.isnan(count) else count - there.known, 0 if state is None else state - there.most)
    if excess > 0:
        # As many late events as that would have made up the journalled values, had they been the ones seen.
        return "late_event" if there.late > excess else "missing_in_lake"
    if count < there.known or (state is not None and state < there.least):
        return "missing_in_state"
    return "unexplained"


@dataclass(frozen=True)
class _There:
    """Events of a decision's key in the lake.

    Attributes:
        known: in the window, and known when the service asked.
        late: in the view's widest window, and known only later.
        least: known when the service asked and in reach of a window, so surely in its state.
        most: known when the service asked, so perhaps in its state.
    """

    known: int
    late: int
    least: int
    most: int


def _late(compared: Compared, columns: list[int]) -> Bools:
    """Whether a view's values differ, and are all as journalled once events count whenever they became known."""
    seen, now, later = (values[:, columns] for values in (compared.seen, compared.now, compared.later))
    return np.logical_and(~_alike(seen, now), _alike(seen, later))


def _alike(left: Floats, right: Floats) -> Bools:
    """Row by row."""
    return np.array([row.all() for row in same_bits(left, right)], dtype=np.bool_)


def _counter(service: Service, view: WindowedView) -> tuple[int | None, int]:
    """The column of the view's widest served count and its window; without one None and the widest window."""
    counts = [a for a in view.spec.aggregates if a.function == "count" and a.name in service.feature_names]
    if not counts:
        return None, view.spec.windows_us[-1]
    widest = max(counts, key=lambda aggregate: aggregate.window_us)
    return service.feature_names.index(widest.name), widest.window_us


def _events(view: WindowedView, rows: Decisions, window_us: int) -> list[_There]:
    spec = view.spec
    asks = pa.table(
        {
            "ask": pa.array(range(len(rows))),
            "instant": rows.event_timestamp_us - spec.delay_us,
            "known_as_of": rows.known_as_of_us,
            **{key: getattr(rows, key) for key in spec.keys},
        }
    )
    time = f"epoch_us(e.{quote(spec.timestamp)})"
    known = f"epoch_us(e.{quote(spec.created)})" if spec.created else time
    keys = " AND ".join(f"CAST(e.{quote(key)} AS VARCHAR) = a.{quote(key)}" for key in spec.keys)
    in_time = f"{known} < a.known_as_of"
    since = f"{time} >= a.instant - "
    widest = spec.windows_us[-1]
    filters = (
        f"{in_time} AND {since}{window_us} AND {time} < a.instant",
        f"NOT ({in_time}) AND {since}{widest} AND {time} < a.instant",
        f"{in_time} AND {since}{widest}",
        in_time,
    )
    counts = ", ".join(f"count(*) FILTER ({condition})" for condition in filters)
    where = f"WHERE {spec.where}" if spec.where else ""
    with duckdb.connect() as connection, EventColumns(connection, view.config, view.sources) as columns:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("asks", asks)
        asked = " AND ".join(
            f"CAST({quote(key)} AS VARCHAR) IN (SELECT {quote(key)} FROM asks)" for key in spec.keys
        )
        # The filter may read columns that the view computes; its aggregates are not asked for.
        (source,) = columns.tables([Wanted(replace(spec, aggregates=()), view.source, asked)])
        found = connection.sql(
            f"SELECT {counts} FROM asks a LEFT JOIN (SELECT * FROM {source} {where}) e ON {keys} "
            "GROUP BY a.ask ORDER BY a.ask"
        ).fetchall()
    return [_There(*map(int, row)) for row in found]


def _of_same_key(service: Service, view: WindowedView) -> list[int]:
    """Columns of all views with the keys of ``view``: a mis-join takes them all, and few tell little."""
    outputs = {
        name for each in service.views.values() if each.spec.keys == view.spec.keys for name in each.outputs
    }
    return [i for i, name in enumerate(service.feature_names) if name in outputs]


def _swapped(view: WindowedView, compared: Compared, columns: list[int]) -> Bools:
    """Whether a decision's values in ``columns`` are those of a decision of another key."""
    others, values = compared.population
    owners: dict[bytes, set[tuple[str, ...]]] = {}
    for row in range(len(others)):
        owners.setdefault(values[row, columns].tobytes(), set()).add(_key(view, others, row))
    found = np.zeros(len(compared.rows), dtype=np.bool_)
    for row in range(len(compared.rows)):
        seen = compared.seen[row, columns]
        told = np.unique(seen[~np.isnan(seen) & (seen != 0)])
        keys = owners.get(seen.tobytes(), set()) if len(told) >= FINGERPRINT else set()
        found[row] = bool(keys) and _key(view, compared.rows, row) not in keys
    return found


def _key(view: WindowedView, rows: Decisions, row: int) -> tuple[str, ...]:
    return tuple(getattr(rows, key)[row] for key in view.spec.keys)
