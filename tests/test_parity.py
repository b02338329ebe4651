"""The parity audit on a real plan's decisions from real state: clean, then one thing wrong at a time."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import catboost
import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from feature_repo.journal import Journal, read_decisions
from feature_repo.reason_codes import FRAUD_REASON_CODES
from feature_repo.store import apply_definitions, open_store
from feature_repo.windows import embedded
from feature_repo.windows.plan import OnlinePlan
from feature_repo.windows.recorder import EventRecorder
from feature_repo.windows.scalars import to_microseconds
from monitoring.parity import ParityReport, audit
from pipelines.load_journal import JournalLoad, load_journal
from pipelines.parity import ParityRun
from tests.homes import fraud_home
from training.bundle import Bundle, BundleSpec, write_bundle
from training.calibration import Calibration
from training.policy import Policy
from training.rules import RuleList

SERVICE = "fraud_v1"
START = datetime(2025, 1, 1, tzinfo=UTC)
ROWS = 240
Records = list[dict[str, Any]]


def stream(rng: np.random.Generator) -> Records:
    """Transactions of 40 days in the order they are known: some late, two at one instant, a few fraud."""
    seconds = np.sort(rng.integers(0, 40 * 86_400, ROWS))
    seconds[10] = seconds[11]
    events: Records = []
    for i, second in enumerate(seconds):
        at = START + timedelta(seconds=int(second), microseconds=int(rng.integers(0, 3)))
        late = timedelta(hours=int(rng.integers(1, 60))) if rng.random() < 0.05 else timedelta(0)
        cents = int(rng.lognormal(8, 1))
        row = {
            "transaction_id": f"t{i}",
            "event_timestamp": at,
            "customer_id": f"c{rng.integers(8)}",
            "terminal_id": f"m{rng.integers(5)}",
            "amount": Decimal(cents) / 100,
            "currency": "USD",
            "amount_usd_cents": cents,
            "status": "approved",
            "channel": "online",
            "category": None,
            "customer_latitude": 48.1,
            "customer_longitude": 11.5,
            "terminal_latitude": None,
            "terminal_longitude": None,
            "created_timestamp": at + late,
        }
        events.append({"table": "transactions", **row})
        if rng.random() < 0.15:
            kept = ("transaction_id", "event_timestamp", "customer_id", "terminal_id", "amount_usd_cents")
            reported = at + late + timedelta(days=float(rng.uniform(1, 10)))
            fraud = {name: row[name] for name in kept} | {"created_timestamp": reported}
            events.append({"table": "chargebacks", **fraud, "reason_code": FRAUD_REASON_CODES[0]})
    return sorted(events, key=lambda event: event["created_timestamp"])


REQUEST = (
    "amount_usd_cents",
    "customer_latitude",
    "customer_longitude",
    "terminal_latitude",
    "terminal_longitude",
)


def play(journal: Journal, plan: OnlinePlan, recorder: EventRecorder, bundle: Bundle) -> None:
    """Score, record and journal the stream as the service does, at its known times."""
    for event in stream(np.random.default_rng(11)):
        table = event.pop("table")
        known = to_microseconds(event["created_timestamp"])
        if table == "transactions":
            request = {name: event[name] for name in REQUEST}
            keys = {name: event[name] for name in ("customer_id", "terminal_id")}
            instant = to_microseconds(event["event_timestamp"])
            read = plan.read([keys | request | {"event_timestamp_us": instant, "known_as_of_us": known}])
            order = [plan.feature_names.index(name) for name in bundle.feature_names]
            features = zip(plan.feature_names, read.values[0].tolist(), strict=True)
            journal.decision(
                {
                    "transaction_id": event["transaction_id"],
                    "event_timestamp_us": instant,
                    "known_as_of_us": int(read.known_as_of_us[0]),
                    **keys,
                    "request": request,
                    "features": {name: None if value != value else value for name, value in features},
                    "score": float(bundle.score(read.values[:, order])[0]),
                    "decision": "approve",
                    "model_name": "fraud",
                    "model_version": "1",
                    "definitions_digest": plan.digest,
                    "feature_service": SERVICE,
                    "state_seen": {view: int(count[0]) for view, count in read.state_seen.items()},
                    "degraded": None,
                    "latency_us": 500,
                    "decided_at_us": known,
                }
            )
        recorder.record(table, [event])
        journal.event(table, event)


def fit(folder: Path, names: tuple[str, ...], seed: int) -> Bundle:
    """A small real model: which rows it calls fraud does not matter, only that its scores vary."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(400, len(names))) * 10.0 ** rng.integers(0, 5, len(names))
    label = (values[:, seed % len(names)] > 0).astype(int)
    model = catboost.CatBoostClassifier(
        iterations=20, depth=4, random_seed=seed, verbose=False, allow_writing_files=False, thread_count=1
    )
    model.fit(catboost.Pool(values, label, feature_names=list(names)))
    spec = BundleSpec(
        feature_service=SERVICE,
        definitions_digest="d",
        feature_names=names,
        calibration=Calibration(slope=1.0, intercept=0.0),
        policy=Policy(),
        fallback=RuleList(rules=(), otherwise=0.01),
    )
    return Bundle.load(write_bundle(folder, model, spec))


class Played:
    """A home in which the stream was played once, its store, and the models by version."""

    def __init__(self, home: Path, store: Any, bundles: dict[str, Bundle]) -> None:
        self.home, self.store, self.bundles = home, store, bundles

    def load(self, name: str, version: str) -> Bundle:
        """Bundle loader of the audit.

        Raises:
            KeyError: there is no such version.
        """
        assert name == "fraud"
        return self.bundles[version]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    home = tmp_path_factory.mktemp("played")
    with fraud_home(home):
        store = open_store()
        apply_definitions(store)
        plan, recorder = OnlinePlan.compile(store, SERVICE), EventRecorder.compile(store)
        bundles = {v: fit(home / f"model-{v}", plan.feature_names, int(v)) for v in ("1", "2")}
        journal = Journal(home / "journal", clock_us=lambda: to_microseconds(START))
        play(journal, plan, recorder, bundles["1"])
        journal.close()
        load_journal(home / "journal", home / "right")
        embedded.stop(home)
        yield Played(home, store, bundles)


class Case:
    """One test's own journal and lake, to be made wrong; the lake lies where the store reads it."""

    def __init__(self, played: Played, folder: Path) -> None:
        self._played = played
        self.lake, self.journal = played.home / "lake", folder / "journal"
        shutil.rmtree(self.lake, ignore_errors=True)
        shutil.copytree(played.home / "right", self.lake)
        shutil.copytree(played.home / "journal", self.journal)

    def audit(self, **options: Any) -> ParityReport:
        return audit(self._played.store, self.journal, bundle_loader=self._played.load, **options)

    def decisions(self) -> Records:
        return list(read_decisions(self.journal))

    def alter(self, change: Callable[[Records], None]) -> None:
        """Rewrite the journal of decisions as ``change`` leaves it."""
        records = self.decisions()
        change(records)
        (path,) = self.journal.glob("decisions-*.jsonl")
        path.write_text("".join(json.dumps(record) + "\n" for record in records))

    def alter_lake(self, change: Callable[[Records], Records]) -> None:
        """Rewrite the transactions of the lake as ``change`` returns them, given in order of time: files have none."""
        path = self.lake / "transactions"
        table = DeltaTable(str(path)).to_pyarrow_table()
        rows = pa.Table.from_pylist(change(_in_order_of_time(table)), table.schema)
        write_deltalake(str(path), rows, mode="overwrite", partition_by=["event_day"])


def _in_order_of_time(table: pa.Table) -> Records:
    return sorted(table.to_pylist(), key=lambda row: (row["event_timestamp"], row["transaction_id"]))


@pytest.fixture
def case(played: Played, tmp_path: Path) -> Case:
    return Case(played, tmp_path)


def mostly(report: ParityReport) -> str:
    """The reason of nine tenths of the differences at least; where late events meet, counts can mislead."""
    reason, count = next(iter(report.attributed.items()))
    assert sum(report.attributed.values()) == report.mismatches + report.score_mismatches
    assert count >= 0.9 * report.mismatches, report.attributed
    return reason


def test_what_was_served_is_recomputed_to_the_bit(case: Case) -> None:
    report = case.audit()
    names = case.decisions()[0]["features"]
    assert (report.decisions, report.features) == (ROWS, len(names))
    assert report.values_compared == ROWS * len(names)
    assert (report.mismatches, report.scores_compared, report.score_mismatches) == (0, ROWS, 0)
    assert report.holds
    assert report.attributed == {}


def test_the_stream_has_late_events_null_features_and_varied_scores(case: Case) -> None:
    records = case.decisions()
    assert sum(record["known_as_of_us"] > record["event_timestamp_us"] for record in records) > 5
    assert any(value is None for record in records for value in record["features"].values())
    assert len({record["score"] for record in records}) > 20


@pytest.mark.parametrize("batch", [5, 12])
def test_the_size_of_batches_changes_nothing(case: Case, batch: int) -> None:
    case.alter(lambda records: records.__delitem__(slice(12, None)))
    assert case.audit(batch=batch) == case.audit()


def test_a_value_changed_by_its_last_bit_is_found(case: Case) -> None:
    def change(records: Records) -> None:
        value = records[200]["features"]["customer_amount_usd_cents_mean_30d"]
        records[200]["features"]["customer_amount_usd_cents_mean_30d"] = float(np.nextafter(value, np.inf))

    case.alter(change)
    report = case.audit()
    assert (report.mismatches, report.attributed) == (1, {"unexplained": 1})
    assert report.by_feature == {"customer_amount_usd_cents_mean_30d": 1}
    (example,) = report.examples
    assert example.transaction_id == case.decisions()[200]["transaction_id"]
    assert example.journalled is not None
    assert example.journalled == np.nextafter(example.recomputed, np.inf)


def test_a_transform_that_does_not_follow_from_its_inputs_is_found(case: Case) -> None:
    def change(records: Records) -> None:
        records[200]["features"]["amount_log"] += 1

    case.alter(change)
    assert case.audit().attributed == {"unexplained": 1}


@pytest.mark.parametrize(("before", "after"), [(0.0, None), (None, 0.0), (0.0, -0.0)])
def test_null_zero_and_negative_zero_are_three_values(
    case: Case, before: float | None, after: float | None
) -> None:
    def change(records: Records) -> None:
        features, name = next(
            (r["features"], name) for r in records for name, value in r["features"].items() if value == before
        )
        features[name] = after

    case.alter(change)
    assert case.audit().mismatches == 1


def test_an_event_that_the_lake_lacks_is_found_and_named(case: Case) -> None:
    lost = case.decisions()[100]["transaction_id"]
    case.alter_lake(lambda rows: [row for row in rows if row["transaction_id"] != lost])
    report = case.audit()
    assert report.mismatches > 10
    assert mostly(report) == "missing_in_lake"


def test_an_event_that_the_state_lacked_is_found_and_named(case: Case) -> None:
    def change(rows: Records) -> Records:
        return [*rows, {**rows[100], "transaction_id": "never recorded"}]

    case.alter_lake(change)
    report = case.audit()
    assert report.mismatches > 10
    assert mostly(report) == "missing_in_state"
    said = ParityRun(JournalLoad(), report, Path("audit.json")).summary()
    assert (
        f"{report.attributed['missing_in_state']:,} missing_in_state: the online store lacked events" in said
    )
    assert "feast materialize" in said


def test_an_event_seen_before_the_lake_says_it_was_known_is_late(case: Case) -> None:
    arrived = START + timedelta(days=400)
    late = case.decisions()[100]["transaction_id"]

    def change(rows: Records) -> Records:
        return [
            row | ({"created_timestamp": arrived} if row["transaction_id"] == late else {}) for row in rows
        ]

    case.alter_lake(change)
    report = case.audit()
    assert report.mismatches > 10
    assert mostly(report) == "late_event"


def test_terminals_exchanged_between_decisions_are_a_mis_join(case: Case) -> None:
    def change(records: Records) -> None:
        one, other = records[150]["features"], records[200]["features"]
        for name in [name for name in one if name.startswith("terminal_")]:
            one[name], other[name] = other[name], one[name]

    records = case.decisions()
    assert records[150]["terminal_id"] != records[200]["terminal_id"]
    case.alter(change)
    report = case.audit()
    assert mostly(report) == "other_key"
    assert all(name.startswith("terminal_") for name in report.by_feature)


def test_values_of_other_definitions_are_said_to_be_that(case: Case) -> None:
    def change(records: Records) -> None:
        records[200]["definitions_digest"] = "an earlier one"
        records[200]["features"]["customer_transactions_count_30d"] = 12_345.0
        records[201]["definitions_digest"] = "an earlier one"

    case.alter(change)
    report = case.audit()
    assert (report.mismatches, report.attributed) == (1, {"other_definitions": 1})


def test_a_service_that_is_defined_no_more_has_other_definitions(case: Case) -> None:
    case.alter(lambda records: records[200].update(feature_service="fraud_v0"))
    report = case.audit()
    assert set(report.attributed) == {"other_definitions"}
    assert case.audit(feature_service=SERVICE).holds


def test_a_score_changed_by_its_last_bit_is_found(case: Case) -> None:
    case.alter(lambda records: records[5].update(score=float(np.nextafter(records[5]["score"], 1))))
    report = case.audit()
    assert (report.mismatches, report.score_mismatches) == (0, 1)
    assert report.attributed == {"unexplained": 1}


def test_a_score_of_another_version_is_said_to_be_that(case: Case) -> None:
    def change(records: Records) -> None:
        records[7]["model_version"] = "2"
        records[8]["model_version"] = "3"

    case.alter(change)
    report = case.audit()
    assert (report.score_mismatches, report.attributed) == (2, {"other_model": 2})


def test_decisions_without_features_have_nothing_to_compare(case: Case) -> None:
    def change(records: Records) -> None:
        records[0].update(
            features={}, score=None, degraded="features-unavailable", feature_service=None, model_name=None
        )
        records[1].update(features={}, score=None, degraded="features-unavailable")

    case.alter(change)
    report = case.audit()
    assert (report.decisions, report.without_features, report.scores_compared) == (ROWS - 2, 2, ROWS - 2)
    assert report.holds


def test_an_empty_journal_holds(case: Case) -> None:
    shutil.rmtree(case.journal)
    report = case.audit()
    assert (report.decisions, report.features, report.holds) == (0, 0, True)
