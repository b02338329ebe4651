"""A small deployment for tests of the service: seeded events, state in Valkey, a champion quickly made.

How a test, or a module's fixture, comes by a real service process::

    with deployed(tmp_path, *events(seed=5, count=400)) as store:
        promote(registered(tmp_path / "first", store))
        with running_service(tmp_path) as url:
            httpx.post(f"{url}/v1/score", json=body_of(row))

``running_service`` (``pipelines.serve``) takes some seconds to start. A test that needs no process opens ``Serving`` over the
same deployment within its own::

    with with_bundle(tmp_path, *events()), closing(opened(tmp_path)) as serving:
        score(serving, fresh(row))
"""

import itertools
import json
import random
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import numpy as np
import pyarrow as pa
from catboost import CatBoostClassifier
from deltalake import write_deltalake

from bento.champion import Champions
from bento.serving import Serving
from feature_repo.lake import CHARGEBACKS, TRANSACTIONS
from feature_repo.settings import settings
from feature_repo.store import apply_definitions, definitions_digest, open_store, service_features
from tests.homes import fraud_home, with_mlflow
from training.bundle import Bundle, BundleSpec, write_bundle
from training.calibration import Calibration
from training.policy import Policy
from training.registry import register
from training.rules import Rule, RuleList
from training.tracking import connect, experiment_id

START = datetime(2025, 3, 1, tzinfo=UTC)
LOADED_UNTIL = START + timedelta(days=40)
END = START + timedelta(days=50)
SERVICE = "fraud_v1"
# A worker that was killed starts anew in ten seconds; on a machine that is busy with other things, in a minute.
PATIENCE_S = 120
_NUMBERS = itertools.count()


@contextmanager
def deployed(home, transactions, chargebacks, *, more=lambda: (), loaded_until=LOADED_UNTIL, redis_at=None):
    """FRAUD_HOME is ``home``, a folder, with a lake, the definitions applied, and online state; no model yet.

    Yields the feature store. What runs in ``home`` of its own accord, Valkey, has ended on leaving.

    Args:
        transactions, chargebacks: rows as ``events`` makes them.
        more: makes the Feast objects to apply beside the project's own, once those are applied.
        loaded_until: the end of the history that is loaded into the state; None loads none.
        redis_at: see ``fraud_home``.
    """
    with fraud_home(home, redis_at):
        store = open_store()
        fill_lake(settings().lake, transactions, chargebacks)
        apply_definitions(store)
        objects = list(more())
        if objects:
            store.apply(objects)
        if loaded_until is not None:
            store.materialize(START - timedelta(days=1), loaded_until)
        yield store


@contextmanager
def with_bundle(home, transactions, chargebacks, **how):
    """As ``deployed``, and a bundle in ``home/bundle``, for ``opened``."""
    with deployed(home, transactions, chargebacks, **how) as store:
        make_bundle(home / "bundle", store)
        yield store


def opened(home, folder="bundle", version="7", kept=None, **how):
    """``Serving`` within this process, the bundle in ``home/folder`` being its champion of that version; to be closed."""
    champions = Champions(alias=lambda: version, load=lambda version: Bundle.load(home / folder), kept=kept)
    return Serving.open(champions, **how)


def registered(folder, store, **how):
    """The version, in the model registry, of a bundle made in ``folder`` (see ``make_bundle``); it has no alias yet."""
    with_mlflow(settings().home)
    client = connect()
    run = client.create_run(experiment_id(client))
    return register(make_bundle(folder, store, **how), run.info.run_id)


def wait_for(condition, patience_s=PATIENCE_S):
    """Return as soon as ``condition()`` is true; AssertionError if it is not in time."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def ready(url):
    """Whether the service at ``url`` answers, and has a champion."""
    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def worker_pid(home):
    """The id of the process of a running service that scores: it writes the journal, so it must have journalled something."""
    newest = max((home / "journal").glob("decisions-*.jsonl"), key=lambda path: path.stat().st_mtime)
    return int(newest.stem.rsplit("-", 1)[1])


def events(seed=1, count=1500):
    """Transactions of 50 days and their chargebacks: some late, some at one instant, few keys."""
    rng = random.Random(seed)
    transactions, chargebacks = [], []
    for number in range(count):
        at = START + timedelta(microseconds=rng.randrange(50 * 86_400 * 10**6))
        if number % 20 == 1:
            at = transactions[-1]["event_timestamp"]
        late = timedelta(seconds=rng.randrange(1, 7200)) if rng.random() < 0.1 else timedelta(0)
        cents = rng.randrange(100, 50_000)
        here = rng.random() < 0.5
        row = {
            "transaction_id": f"t{number}",
            "event_timestamp": at,
            "customer_id": f"c{rng.randrange(20)}",
            "terminal_id": f"m{rng.randrange(10)}",
            "amount": Decimal(cents).scaleb(-2),
            "currency": "USD",
            "amount_usd_cents": cents,
            "status": rng.choice(["approved", "declined"]),
            "channel": rng.choice([None, "online"]),
            "category": None,
            "customer_latitude": rng.uniform(-90, 90) if here else None,
            "customer_longitude": rng.uniform(-180, 180) if here else None,
            "terminal_latitude": rng.uniform(-90, 90) if here else None,
            "terminal_longitude": rng.uniform(-180, 180) if here else None,
            "created_timestamp": at + late,
            "event_day": at.date(),
        }
        transactions.append(row)
        if rng.random() < 0.1:
            names = ("transaction_id", "event_timestamp", "customer_id", "terminal_id", "amount_usd_cents")
            reported = at + timedelta(days=7, seconds=rng.randrange(86_400))
            known = {"reason_code": "10.4", "created_timestamp": reported, "event_day": at.date()}
            chargebacks.append({name: row[name] for name in names} | known)
    return transactions, chargebacks


def after_load(transactions):
    """Those that happened after the history that ``deployed`` loads, as they became known."""
    later = [row for row in transactions if row["event_timestamp"] >= LOADED_UNTIL]
    return sorted(later, key=lambda row: row["created_timestamp"])


def fill_lake(lake, transactions, chargebacks):
    """Write both tables."""
    for name, rows, schema in (
        ("transactions", transactions, TRANSACTIONS),
        ("chargebacks", chargebacks, CHARGEBACKS),
    ):
        table = pa.Table.from_pylist(rows, schema=schema)
        write_deltalake(str(lake / name), table, partition_by=["event_day"])


def make_bundle(folder, store, *, seed=0, service=SERVICE, digest=None, policy=None, **more):
    """A bundle whose scores depend on every kind of feature.

    Args:
        digest: None is that of the store's definitions. more: of ``BundleSpec``.
    """
    names = service_features(store.get_feature_service(service))
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(400, len(names))) * 10 ** rng.uniform(0, 4, size=len(names))
    values[rng.random(values.shape) < 0.1] = np.nan
    labels = (np.nan_to_num(values[:, ::3]).sum(axis=1) > 0).astype(int)
    classifier = CatBoostClassifier(
        iterations=30, depth=4, verbose=0, allow_writing_files=False, thread_count=1, random_seed=seed
    )
    classifier.fit(values, labels)
    spec = BundleSpec(
        feature_service=service,
        definitions_digest=digest or definitions_digest(store, service),
        feature_names=names,
        calibration=Calibration(1.0, -2.0),
        policy=policy or Policy(),
        fallback=RuleList((Rule("amount_usd_cents", True, 40_000, 0.5),), 0.001),
        **more,
    )
    return write_bundle(folder, classifier, spec)


def body_of(row, **changes):
    """A lake's transaction as a request."""
    names = set(TRANSACTIONS.names) - {"amount_usd_cents", "scored_timestamp", "event_day"}
    sent = {name: row[name] for name in sorted(names) if row[name] is not None} | changes
    for name in ("event_timestamp", "created_timestamp"):
        if isinstance(sent.get(name), datetime):
            sent[name] = sent[name].isoformat()
    sent["amount"] = str(sent["amount"])
    return {name: value for name, value in sent.items() if value is not None}


def fresh(row, **changes):
    """A request like the row's, under an id never used here."""
    return body_of(row, **{"transaction_id": f"fresh{next(_NUMBERS)}", **changes})


def live(row, **changes):
    """A request like the row's that happens now, under an id never used here."""
    return fresh({**row, "event_timestamp": datetime.now(UTC), "created_timestamp": None}, **changes)


def report_of(row):
    """A lake's chargeback as a request."""
    sent = {name: value for name, value in row.items() if name != "event_day"}
    return sent | {name: sent[name].isoformat() for name in ("event_timestamp", "created_timestamp")}


def send(serving, verb, request):
    """What a service within this process replies to a request."""
    return serving.answer(verb, json.dumps(request).encode(), time.perf_counter_ns())


def score(serving, request):
    """What a service within this process answers to a transaction."""
    return json.loads(send(serving, "score", request).body)
