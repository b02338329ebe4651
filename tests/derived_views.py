"""Views that aggregate, filter on and are computed from one another's features, and the same said by hand.

An event's ``ratio`` is its amount over the mean of its key's ten seconds before it, as of when it was scored where it says so.
Two views aggregate it, outputs of one of them are columns of a third, and reports of events take it over.
"""

import math
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pyarrow as pa
from feast import FeatureService, FileSource, PushSource

from feature_repo.windows.derived import derive
from feature_repo.windows.transform import transform
from tests import oracle
from tests.timelines import SECOND, moment
from tests.windows_project import HOLDER, PLACE, SCHEMA, TIME, project, view_of

SCALE = 4
EVENTS = pa.schema([*SCHEMA, pa.field("scored", TIME)])
MEAN, MOST, REPORTS = "usual_amount_mean_10s", "peak_ratio_max_10s", "reported_reports_count_1m"
NUMBERS = ("sum", "mean", "min", "max", "last", "std")
PASSING = "(ratio > 1.5 OR place = 'x') AND (NOT big OR place = 'y')"


@transform(inputs=["amount", MEAN], outputs=["ratio_then"])
def over_usual(c):
    return {"ratio_then": c["amount"] / c[MEAN]}


@transform(inputs=["event_timestamp", REPORTS, MOST], outputs=["mixed_then"])
def mixed(c):
    return {"mixed_then": c["event_timestamp"] % 7 + c[REPORTS] + np.nan_to_num(c[MOST])}


def views(events, reports):
    """By name, each after those that it is computed from."""
    usual = view_of(events, {("mean", "amount"): ["10s"]}, name="usual", prefix="usual")
    ratio = derive("ratio", [usual], [HOLDER], "ratio_then", SCALE, transform=over_usual, as_of="scored")
    peak = view_of(
        events,
        {(function, "ratio"): ["1s", "10s"] for function in NUMBERS}
        | {("mean", "big"): ["1m"], ("mean", "at_x"): ["1m"], ("count", ""): ["10s"]},
        name="peak", prefix="peak", derived=[ratio], delay="1s",
        conditions={"big": "ratio >= 2", "at_x": "place = 'x'"},
    )  # fmt: skip
    passing = view_of(
        events,
        {("max", "ratio"): ["10s"], ("count", ""): ["1m"], ("count_distinct", "big"): ["1m"], ("sum", "big"): ["1m"]},
        name="passing", prefix="passing", derived=[ratio], where=PASSING, conditions={"big": "amount > 2"},
    )  # fmt: skip
    reported = view_of(
        reports, {("count", ""): ["1m"]}, name="reported", prefix="reported", entities=(PLACE,)
    )
    second = derive("second", [peak, reported], [HOLDER, PLACE], "mixed_then", 0, transform=mixed)
    most = derive("most", [peak], [HOLDER], MOST, 1)
    above = view_of(
        events, {("sum", "second"): ["10s"], ("last", "most"): ["1m"]}, name="above", prefix="above",
        derived=[second, most],
    )  # fmt: skip
    explained = view_of(
        reports, {("count", ""): ["1m"], ("max", "ratio"): ["1m"]}, name="explained", prefix="explained",
        entities=(PLACE,), derived=[replace(ratio, source="events")], where="ratio < 3",
    )  # fmt: skip
    return {view.name: view for view in (usual, peak, passing, reported, above, explained)}


def deploy(folder, name="small"):
    """A store of the views over ``events.parquet`` and ``reports.parquet`` in a folder, and a service ``all`` of all of them."""
    sources = [
        PushSource(name=f"{each}_arrivals", batch_source=FileSource(
            name=each, path=str(folder / f"{each}.parquet"), timestamp_field="time", created_timestamp_column="known"))
        for each in ("events", "reports")
    ]  # fmt: skip
    made = views(*sources)
    services = [FeatureService(name=view.name, features=[view]) for view in made.values()]
    everything = FeatureService(name="all", features=list(made.values()))
    return project(folder, *sources, *made.values(), *services, everything, name=name)


def rows(events):
    """Events as their source holds them."""
    times = ("time", "known", "scored")
    plain = ("id", "key", "place", "amount")
    return [
        {**{n: e[n] for n in plain}, **{n: None if e[n] is None else moment(e[n]) for n in times}}
        for e in events
    ]


def stored(value, scale):
    """As it is kept, in units: half to even; None where there is no number, or none that is whole."""
    if value is None or math.isnan(value) or math.isinf(value) or abs(value * 10.0**scale) >= 2.0**53:
        return None
    return round(value * 10.0**scale)


def divided(over, under):
    """As floats divide."""
    if over is None or under is None or over == 0 == under:
        return None
    return float(over) / float(under) if under else math.copysign(math.inf, over)


def window(function, column, events, key, instant, length, known, *, by="key", delay=0):
    """One aggregate of the events of one key, if it is one."""
    inside = oracle.counted([{**e, "key": e[by]} for e in events], key, instant, length, delay, known)
    return oracle.aggregate(function, column, inside if key is not None else [], instant)


def with_columns(events, reports):
    """The events with all that is computed of them: ``ratio`` and ``most`` in units, ``exact`` the ratio as a decimal."""
    events = [dict(e) for e in events]
    for e in events:
        known = e["time"] if e["scored"] is None else e["scored"]
        mean = window("mean", "amount", events, e["key"], e["time"], 10 * SECOND, known)
        e["ratio"] = stored(divided(e["amount"], mean), SCALE)
        e["exact"] = None if e["ratio"] is None else Decimal(e["ratio"]).scaleb(-SCALE)
        e["large"] = None if e["exact"] is None else e["exact"] >= 2
        e["at_x"] = None if e["place"] is None else e["place"] == "x"
        e["rich"] = None if e["amount"] is None else e["amount"] > 2
    for e in events:
        at, before = e["time"], {"known": e["time"], "length": 10 * SECOND, "delay": SECOND}
        most = window("max", "ratio", events, e["key"], at, **before)
        count = window("count", "", reports, e["place"], at, 60 * SECOND, at, by="place")
        e["second"] = stored(float(at // SECOND % 7 + count + (most or 0)), 0)
        e["most"] = None if most is None else stored(float(most), 1)
    return events


def seen_by(view, events, reports):
    """The events that a view counts, with the columns that it aggregates."""
    if view == "peak":
        return [{**e, "big": _bit(e["large"]), "at_x": _bit(e["at_x"])} for e in events]
    if view == "passing":
        return [{**e, "big": _bit(e["rich"])} for e in events if _passes(e)]
    if view == "explained":
        found = {e["id"]: e for e in events}
        told = [{**r, **{n: found.get(r["id"], {}).get(n) for n in ("ratio", "exact")}} for r in reports]
        return [r for r in told if r["exact"] is not None and r["exact"] < 3]
    return reports if view == "reported" else events


def _passes(e):
    """``PASSING`` by hand: unknown parts may be true or false, and it passes if it is true either way."""
    above = None if e["exact"] is None else e["exact"] > Decimal("1.5")

    def both(*known):
        return [[False, True] if each is None else [each] for each in known]

    above, at_x, rich = both(above, e["at_x"], e["rich"])
    at_y = [False, True] if e["place"] is None else [e["place"] == "y"]
    either = any(values == [True] for values in (above, at_x))
    return either and (rich == [False] or at_y == [True])


def _bit(truth):
    return None if truth is None else int(truth)


def expected(specs, events, reports, ask):
    """What the views give to one who asks: key, place, instant, known as of."""
    key, place, instant, known = ask
    events = with_columns(events, reports)
    for spec in specs:
        by, whose = ("place", place) if spec.source == "reports" else ("key", key)
        counted = seen_by(spec.view, events, reports)
        for a in spec.aggregates:
            yield window(
                a.function, a.column, counted, whose, instant, a.window_us, known, by=by, delay=spec.delay_us
            )
