"""A whole run of monitoring on journalled decisions and a real lake, its verdict, and its two files."""

import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from feature_repo.lake import CHARGEBACKS, TRANSACTIONS
from feature_repo.reason_codes import FRAUD_REASON_CODES
from monitoring.calendar import calendar_features
from monitoring.decisions import collect
from monitoring.drift import build_profile
from monitoring.report import MonitorReport, as_html, as_json, write
from monitoring.run import Model, monitor

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = datetime(2025, 6, 2, tzinfo=UTC)
MATURITY = timedelta(days=20)
DAY = timedelta(days=1)


def scored(rng: np.random.Generator, rows: int, days: float, shift: float = 0.0) -> list[dict[str, Any]]:
    """Decisions of ``days`` days by model version 1: two features of the world, one of the calendar, a score of them."""
    records = []
    for i, offset in enumerate(np.sort(rng.random(rows)) * days):
        at = START + offset * DAY
        amount, risk = rng.lognormal(3 + shift, 1), rng.random()
        score = 1 / (1 + np.exp(6 - 8 * risk**4 - 0.3 * np.log(amount)))
        us = (at - EPOCH) // timedelta(microseconds=1)
        records.append(
            {
                "transaction_id": f"t{i}",
                "event_timestamp_us": us,
                "known_as_of_us": us,
                "customer_id": f"c{rng.integers(rows // 4)}",
                "terminal_id": "m",
                "request": {},
                "features": {"amount": amount, "risk": risk, "hour_utc": float(at.hour)},
                "score": float(score),
                "decision": "approve",
                "model_name": "fraud",
                "model_version": "1",
                "definitions_digest": "d",
                "feature_service": "fraud_v1",
                "state_seen": {},
                "degraded": None,
                "latency_us": 900,
                "decided_at_us": us,
            }
        )
    return records


def write_lake(
    folder: Path, rng: np.random.Generator, records: list[dict[str, Any]], noise: float = 0.0
) -> None:
    """Transactions of the decisions and chargebacks by their scores; ``noise`` is the share that scores say nothing of."""
    transactions, chargebacks = [], []
    for record in records:
        at = EPOCH + timedelta(microseconds=record["event_timestamp_us"])
        row = {
            "transaction_id": record["transaction_id"],
            "event_timestamp": at,
            "customer_id": record["customer_id"],
            "terminal_id": "m",
            "amount_usd_cents": 100,
            "event_day": at.date(),
        }
        fixed = {"amount": 1, "currency": "USD", "status": "approved", "created_timestamp": at}
        transactions.append({**row, **fixed})
        likely = record["score"] if rng.random() >= noise else 0.1
        if rng.random() < likely:
            reported = at + float(rng.uniform(0, 15)) * DAY
            chargebacks.append({**row, "reason_code": FRAUD_REASON_CODES[0], "created_timestamp": reported})
    for name, schema, rows in (
        ("transactions", TRANSACTIONS, transactions),
        ("chargebacks", CHARGEBACKS, chargebacks),
    ):
        write_deltalake(str(folder / name), pa.Table.from_pylist(rows, schema), partition_by=["event_day"])


def model(rng: np.random.Generator, reference: float = 0.6) -> Model:
    """A model trained on two whole weeks of the unshifted stream."""
    trained = collect(scored(rng, 20_000, 14))
    columns = dict(zip(trained.feature_names, trained.features.T, strict=True))
    return Model("fraud", "1", build_profile({**columns, "score": trained.score}), reference)


def run(
    folder: Path,
    *,
    rows: int = 4000,
    days: float = 14.0,
    shift: float = 0.0,
    noise: float = 0.0,
    **options: Any,
) -> MonitorReport:
    rng = np.random.default_rng(5)
    records = scored(rng, rows, days, shift)
    write_lake(folder, rng, records, noise)
    options = {"as_of": START + 60 * DAY, "maturity": MATURITY, "mismatches": 0} | options
    return monitor(collect(records), model(rng), folder, **options)


def test_a_quiet_fortnight_is_ok(tmp_path: Path) -> None:
    report = run(tmp_path)
    assert report.verdict.level == "ok", report.verdict.reasons
    assert {drift.band for drift in report.drift} == {"none"}
    assert report.drift[-1].name == "score"
    assert report.performance.matured.rows == 4000


def test_labels_that_the_scores_no_longer_foretell_ask_for_retraining(tmp_path: Path) -> None:
    report = run(tmp_path, noise=0.9)
    assert report.verdict.level == "retrain"
    assert report.verdict.reasons[0].startswith("average precision on matured labels")


def test_a_shift_of_the_world_before_labels_mature_asks_for_retraining(tmp_path: Path) -> None:
    report = run(tmp_path, shift=6.0, as_of=START + 14 * DAY)
    assert report.performance.matured.rows == 0
    assert report.verdict.level == "retrain", report.verdict.reasons


def test_broken_parity_holds_it_back(tmp_path: Path) -> None:
    assert run(tmp_path, noise=0.9, mismatches=3).verdict.level == "watch"


@pytest.mark.parametrize(("days", "judged"), [(2.0, False), (14.0, True)])
def test_the_calendar_is_judged_over_whole_weeks_only(tmp_path: Path, days: float, judged: bool) -> None:
    report = run(tmp_path, days=days)
    assert ("hour_utc" not in report.unjudged) is judged
    assert report.verdict.level == "ok", report.verdict.reasons


def test_a_few_hours_drift_by_the_clock_and_are_not_judged_for_it(tmp_path: Path) -> None:
    report = run(tmp_path, days=0.25)
    (hour,) = [drift for drift in report.drift if drift.name == "hour_utc"]
    assert hour.band == "large"
    assert "hour_utc" in report.unjudged
    assert report.verdict.level == "ok", report.verdict.reasons


def test_only_functions_of_the_hour_of_the_week_are_the_calendar() -> None:
    records = scored(np.random.default_rng(2), 2000, 3)
    for record in records:
        record["features"]["constant"] = 1.0
        record["features"]["sometimes_null"] = None if record["features"]["risk"] < 0.5 else 1.0
    assert calendar_features(collect(records)) == {"hour_utc"}


def test_decisions_of_another_version_are_not_the_champions(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    records = scored(rng, 400, 14)
    write_lake(tmp_path, rng, records)
    for record in records[:100]:
        record["model_version"] = "0"
    report = monitor(
        collect(records), model(rng), tmp_path, as_of=START + 60 * DAY, maturity=MATURITY, mismatches=None
    )
    assert (report.health.decisions, report.performance.matured.rows) == (400, 300)
    assert {drift.rows for drift in report.drift} == {300}


def test_no_decisions_are_a_report_to_watch(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    write_lake(tmp_path, rng, scored(rng, 400, 14))
    report = monitor(collect([]), model(rng), tmp_path, as_of=START, maturity=MATURITY, mismatches=None)
    assert (report.verdict.level, report.model_version, report.drift) == ("watch", None, ())
    assert "—" in as_html(report)


def test_the_json_holds_the_verdict_and_every_figure(tmp_path: Path) -> None:
    report = run(tmp_path, as_of=START + 30 * DAY)
    document = json.loads(as_json(report))
    assert document["verdict"] == {"level": report.verdict.level, "reasons": list(report.verdict.reasons)}
    assert [each["name"] for each in document["drift"]] == [drift.name for drift in report.drift]
    assert document["performance"]["matured"]["average_precision"]["value"] == pytest.approx(
        report.performance.matured.average_precision.value  # type: ignore[union-attr]
    )
    assert document["performance"]["early"]["average_precision"] is not None


class References(HTMLParser):
    """Collects what a page would fetch, and what a person reads."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.text: list[str] = []
        self._within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = tag
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        if self._within not in ("script", "style"):
            self.text.append(data)


def test_the_page_fetches_nothing_and_shows_verdict_chart_and_drift(tmp_path: Path) -> None:
    report = run(tmp_path, as_of=START + 30 * DAY)
    page = as_html(report)
    seen = References()
    seen.feed(page)
    text = " ".join(seen.text)
    assert seen.fetched == []
    assert report.verdict.level in text
    assert all(drift.name in text for drift in report.drift)
    chart = page[page.rindex("Plotly.newPlot") :]
    assert '"name":"matured labels"' in chart
    assert '"name":"early estimate"' in chart


def test_the_same_report_is_the_same_page(tmp_path: Path) -> None:
    report = run(tmp_path)
    assert as_html(report) == as_html(report)


def test_names_from_outside_cannot_become_markup(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    records = scored(rng, 400, 14)
    write_lake(tmp_path, rng, records)
    for record in records:
        record["degraded"] = "<script>alert(1)</script>"
    report = monitor(collect(records), model(rng), tmp_path, as_of=START, maturity=MATURITY, mismatches=None)
    assert not re.search(r"<script>alert", as_html(report))


def test_both_files_are_written_under_one_name(tmp_path: Path) -> None:
    data, page = write(run(tmp_path / "lake"), tmp_path / "monitor", "2025-06-16")
    assert (data.name, page.name) == ("2025-06-16.json", "2025-06-16.html")
    assert sorted(path.name for path in data.parent.iterdir()) == ["2025-06-16.html", "2025-06-16.json"]
