"""Views of every kind over the same events, and how Feast is asked of them, for the tests named ``test_feast_universal_*``."""

import random
from datetime import timedelta

import pandas as pd
from feast import FeatureService, Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.types import Int64, String

from feature_repo.windows.transform import transform
from tests.windows_project import (
    HOLDER,
    PLACE,
    at,
    event,
    events_source,
    plain_view,
    project,
    view_of,
    write_events,
)  # fmt: skip

SUM, COUNT = "holder_amount_sum_1h", "holder_events_count_1h"
END, TTL = 7200, 1800


def deploy(folder, *objects):
    """A project of its own in the module's Redis."""
    return project(folder, *objects, name=folder.name)


def statuses(response, feature):
    place = list(response.proto.metadata.feature_names.val).index(feature)
    return [FieldStatus.Name(status) for status in response.proto.results[place].statuses]


def history(store, rows, features, **options):
    return store.get_historical_features(pd.DataFrame(rows), features, **options).to_arrow().to_pydict()


@transform(inputs=["holder_amount_sum_1h", "factor"], outputs=["scaled", "halved"])
def scaling(c):
    return {"scaled": c["holder_amount_sum_1h"] * c["factor"], "halved": c["holder_amount_sum_1h"] / 2}


def generated(seed):
    rng = random.Random(seed)
    return [
        event(n, seconds, key=rng.choice("abc"), place=rng.choice("xy"), amount=rng.randrange(100))
        for n, seconds in enumerate(rng.sample(range(END), 60))
    ]


def deploy_everything(folder):
    """A store with views of every kind over the same events, and two services of them."""
    events = generated(3)
    path = write_events(folder / "events.parquet", events)
    source = events_source(path)
    windows = view_of(
        source, {("sum", "amount"): ["1h"], ("count", ""): ["1h"]}, name="windows", prefix="holder"
    )
    latest = plain_view(
        path, "latest", ttl=TTL, fields=(("amount", Int64), ("note", String)), field_mapping={"place": "note"}
    )
    pair = plain_view(
        path, "pair", entities=(HOLDER, PLACE), fields=(("paid", Int64),), field_mapping={"amount": "paid"}
    )
    anyone = plain_view(
        path, "anyone", entities=(), fields=(("newest", Int64),), field_mapping={"amount": "newest"}
    )
    asked = RequestSource(name="asked", schema=[Field(name="factor", dtype=Int64)])

    @on_demand_feature_view(
        sources=[latest, asked],
        schema=[Field(name=name, dtype=Int64) for name in ("more", "less", "same")],
        mode="pandas",
    )
    def around(inputs: pd.DataFrame) -> pd.DataFrame:
        amount = inputs["amount"].astype("Int64")
        return pd.DataFrame(
            {"more": amount + inputs["factor"], "less": amount - inputs["factor"], "same": amount}
        )

    scaled = scaling.view("scaled_windows", [windows], asked)
    part = FeatureService(
        name="part", features=[windows[[COUNT]], latest[["note"]], around[["more"]], scaled[["halved"]]]
    )
    twice = FeatureService(
        name="twice",
        features=[
            latest.with_name("payer").with_join_key_map({"key": "payer_key"}),
            latest.with_name("payee").with_join_key_map({"key": "payee_key"}),
        ],
    )
    store = deploy(folder, source, windows, latest, pair, anyone, around, scaled, part, twice)
    return store, events


def newest(events, instant, ttl=None, **keys):
    """The newest event of these keys at or before an instant."""
    found = [
        e
        for e in events
        if all(e[name] == value for name, value in keys.items())
        and e["time"] <= instant
        and (ttl is None or instant - e["time"] <= timedelta(seconds=ttl))
    ]
    return max(found, key=lambda e: (e["time"], e["known"]), default=None)


EVERYTHING = [
    f"windows:{SUM}", f"windows:{COUNT}", "latest:amount", "latest:note", "pair:paid", "anyone:newest",
    "around:more", "around:less", "around:same", "scaled_windows:scaled", "scaled_windows:halved",
]  # fmt: skip


def expected(events, row):
    """What one row of ``everything`` is answered, by feature."""
    instant, key = row["event_timestamp"], row["key"]
    start = instant - timedelta(hours=1)
    inside = [e["amount"] for e in events if e["key"] == key and start <= e["time"] < instant]
    latest = newest(events, instant, TTL, key=key) or {"amount": None, "place": None}
    pair = newest(events, instant, key=key, place=row["place"]) or {"amount": None}
    amount = latest["amount"]
    return dict(
        zip(
            EVERYTHING,
            [
                sum(inside), len(inside), amount, latest["place"], pair["amount"],
                (newest(events, instant) or {"amount": None})["amount"],
                None if amount is None else amount + row["factor"],
                None if amount is None else amount - row["factor"],
                amount, float(sum(inside) * row["factor"]), sum(inside) / 2,
            ],
            strict=True,
        )
    )  # fmt: skip


def named(ref, full):
    return ref.replace(":", "__") if full else ref.split(":")[1]


def asks(rng, instants):
    return [
        {"key": rng.choice("abcd"), "place": rng.choice("xyz"), "factor": n, "event_timestamp": at(instant)}
        for n, instant in enumerate(instants)
    ]
