"""Two plans in one round trip: each answers what it answers alone, and nothing is asked of the server twice."""

import random
from datetime import timedelta

import numpy as np
import pytest

from feature_repo.windows import reading
from feature_repo.windows.joint import JointPlan
from feature_repo.windows.plan import OnlinePlan
from feature_repo.windows.reading import StateView
from feature_repo.windows.wire import exchange
from tests.deployments import END, deployed, events
from tests.windows_project import online_client

TRANSACTIONS, CHARGEBACKS = events(count=600)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with deployed(tmp_path_factory.mktemp("joint"), TRANSACTIONS, CHARGEBACKS, loaded_until=END) as opened:
        yield opened


def plans(store, *names):
    return [OnlinePlan.compile(store, name) for name in names]


def rows(count, seed=3):
    rng = random.Random(seed)
    last = max(row["event_timestamp"] for row in TRANSACTIONS)
    instants = [last + timedelta(seconds=rng.randrange(1, 86_400)) for _ in range(count)]
    return [
        {
            "customer_id": f"c{rng.randrange(22)}",
            "terminal_id": f"m{rng.randrange(12)}",
            "event_timestamp_us": int(instant.timestamp()) * 1_000_000,
            "known_as_of_us": int(instant.timestamp()) * 1_000_000,
            "amount_usd_cents": rng.randrange(1, 10**6),
            "customer_latitude": rng.choice([None, 48.1]),
            "customer_longitude": 11.5,
            "terminal_latitude": rng.uniform(-90, 90),
            "terminal_longitude": None,
        }
        for instant in instants
    ]


def without(plan, *dropped):
    """The plan as an older definition of the service would have it: without the named aggregates."""
    views = [
        StateView(
            view.spec.only({a.name for a in view.spec.aggregates} - set(dropped)),
            view.project,
            view.join_keys,
        )
        for view in plan.state_views
    ]
    names = tuple(name for name in plan.feature_names if name not in dropped)
    return OnlinePlan(plan.client, plan._project, views, plan.transforms, names, "older")


def sent(client):
    """Commands that the server has taken, by name."""
    return {name: stats["calls"] for name, stats in client.info("commandstats").items()}


@pytest.mark.parametrize(
    "names", [("fraud_v1", "published_v1"), ("published_v1", "fraud_v1"), ("fraud_v1", "fraud_v1")]
)
def test_each_plan_answers_to_the_bit_what_it_answers_alone(store, names):
    first, second = plans(store, *names)
    joint = JointPlan(first, second)
    joint.warm()
    asked = rows(60)
    assert first.read(asked).values.any(axis=0).sum() > 5
    for given in (asked, asked[:1]):
        for alone, together in zip((first.read(given), second.read(given)), joint.read(given), strict=True):
            np.testing.assert_array_equal(alone.values.view(np.int64), together.values.view(np.int64))
            np.testing.assert_array_equal(alone.known_as_of_us, together.known_as_of_us)
            assert {view: seen.tolist() for view, seen in alone.state_seen.items()} == {
                view: seen.tolist() for view, seen in together.state_seen.items()
            }


def test_one_round_trip_reads_every_state_once(store):
    first, second = plans(store, "fraud_v1", "published_v1")
    joint, client = JointPlan(first, second), online_client(store)
    before = sent(client)
    joint.read(rows(1))
    risen = {name: calls - before.get(name, 0) for name, calls in sent(client).items()}
    assert {name: calls for name, calls in risen.items() if calls} == {
        "cmdstat_time": 1, "cmdstat_mget": 1, "cmdstat_info": 1,
    }  # fmt: skip
    views = {view.spec.view for plan in (first, second) for view in plan.state_views}
    assert len(views) < len(first.state_views) + len(second.state_views)
    assert asked_keys(joint, rows(1)) == 2 * len(views)


def asked_keys(joint, given):
    """How many keys one read asks for, floors included."""
    asked = []

    def count(client, commands):
        asked.append(int(commands[1][1 : commands[1].index(b"\r")]) - 1)
        return exchange(client, commands)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "exchange", count)
        joint.read(given)
    (keys,) = asked
    return keys


def test_definitions_that_differ_in_outputs_alone_read_one_state(store):
    (new,) = plans(store, "fraud_v1")
    dropped = "customer_transactions_count_7d"
    old = without(new, dropped)
    assert {v.spec.state_digest for v in old.state_views} == {v.spec.state_digest for v in new.state_views}
    joint = JointPlan(old, new)
    assert asked_keys(joint, rows(1)) == 2 * len(new.state_views)
    asked = rows(20)
    for alone, together in zip((old.read(asked), new.read(asked)), joint.read(asked), strict=True):
        np.testing.assert_array_equal(alone.values.view(np.int64), together.values.view(np.int64))
    # The view is another one by its definition, so what is made of it is not taken for the same.
    assert dropped not in joint.shared
    assert "customer_transactions_count_1d" not in joint.shared
    assert "amount_zscore_30d" not in joint.shared
    assert {"amount_log", "pair_transactions_count_30d", "terminal_ordinary_fraud_rate_3d"} <= joint.shared


def test_what_is_shared_is_what_both_make_the_same_way(store):
    first, second = plans(store, "fraud_v1", "published_v1")
    assert JointPlan(first, first).shared == set(first.feature_names)
    both = set(first.feature_names) & set(second.feature_names)
    assert JointPlan(first, second).shared == both
    assert 0 < len(both) < len(second.feature_names)
