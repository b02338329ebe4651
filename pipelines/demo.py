"""``fraud demo``: the whole path on real input, from raw transactions to a scored, audited and monitored decision.

Everything happens in a deployment of its own, made anew each time, with its own Valkey server and its own MLflow, whatever
``FRAUD_REDIS`` and ``MLFLOW_TRACKING_URI`` say: nothing of yours is touched. Each step is the verb's own function, the one
that the command line runs. What was measured is returned as one document, written to
``build/demo.json``, and shown as a table by ``pipelines.demo_table``.

On the Handbook's data its published protocol is run too, beside the published figures; keys that do not apply are null.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from feature_repo.settings import make_private
from pipelines.progress import Progress, quiet

__all__ = ["DemoError", "run_demo"]

MARKER = ".fraud-demo"
HANDBOOK_MATURITY = timedelta(days=7)  # the delay of its protocol
SIMULATED_MATURITY = timedelta(days=30)  # by then nine in ten simulated frauds are reported
# The stretch replayed begins so long before the last transaction: its labels mature while there is still newer data.
REPLAY_BEFORE_END = timedelta(days=12)
SIMULATED_TRANSACTIONS, SIMULATED_DAYS, SIMULATED_SEED, SIMULATED_START = 450_000, 150, 7, date(2025, 1, 1)
REPLAYED = 20_000


class DemoError(RuntimeError):
    """A promise of the project does not hold on these data: a leak, a parity mismatch, an unanswered request."""


@dataclass
class _Run:
    """One demo in the making."""

    home: Path
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - began, 2)


def run_demo(
    folder: Path,
    data: Path | None = None,
    mapping: str = "handbook",
    *,
    transactions: int = SIMULATED_TRANSACTIONS,
    replayed: int = REPLAYED,
    progress: Progress = quiet,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run every step; returns what was measured, which is also in ``folder/demo.json``.

    Args:
        folder: where the document and, under ``demo``, the demo's deployment go; what an earlier demo left is removed.
        data: transactions to ingest by ``mapping``; None simulates ``transactions`` of them.
        replayed: how many transactions go through the service.
        note: told the name of each step as it begins.

    Raises:
        DemoError: parity or the service failed; the document has been written. LeakError: see ``training.evaluation``.
        IngestError: the data cannot be used. FileExistsError: ``folder/demo`` is no demo's.
    """
    run = _Run(_fresh_home(folder / "demo"), progress)
    # Every verb reads its deployment from the environment, as does the service, which is another process.
    with _environment(
        FRAUD_HOME=str(run.home), FRAUD_REDIS=None, MLFLOW_TRACKING_URI=None, FRAUD_API_KEYS=None
    ):
        from feature_repo.windows import embedded

        try:
            document = _steps(run, data, mapping, transactions, replayed, note)
        finally:
            embedded.stop(run.home)
    path = folder / "demo.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    _judge(document)
    return document


def _steps(
    run: _Run, data: Path | None, mapping: str, transactions: int, replayed: int, note: Callable[[str], None]
) -> dict[str, Any]:
    from feature_repo.settings import settings
    from pipelines.demo_protocol import is_handbook, published_protocol
    from pipelines.monitor import monitor
    from pipelines.parity import parity
    from pipelines.replay import replay
    from pipelines.retrain import retrain
    from pipelines.serve import running_service
    from pipelines.train import train_model

    lake = settings().lake
    maturity = SIMULATED_MATURITY if data is None else HANDBOOK_MATURITY
    note("Events in: " + (str(data) if data else f"{transactions:,} simulated transactions"))
    with run.step("ingest"):
        rows = _load(lake, data, mapping, transactions, run.progress)
    note("feast apply: entities, windowed views, transforms, services")
    with run.step("apply"):
        features = _apply()
    start, end = _stretch(lake)
    protocol = None
    if data is not None and is_handbook(mapping, lake):
        note("The published protocol: baselines and CatBoost on the Handbook's weeks")
        with run.step("protocol"):
            protocol = published_protocol(lake, maturity, run.progress)
    note(f"Training: the model, as known on {start:%Y-%m-%d}, beside its baselines; MLflow")
    with run.step("train"):
        trained = train_model(as_of=start, maturity=maturity, progress=run.progress)
    note(f"feast materialize: the state of every window up to {start:%Y-%m-%d}")
    with run.step("materialize"):
        _materialize(start)
    note(
        f"Service and replay: {replayed:,} transactions over HTTP, in order, with chargebacks as they were reported"
    )
    with run.step("serve"), running_service(run.home) as url:
        with run.step("replay"):
            replayed_report = replay(url, lake, start, end, limit=replayed, progress=run.progress)
        note("Parity: every journalled feature and score computed again offline, compared to the bit")
        with run.step("parity"):
            audited = parity(progress=run.progress).report
        note("Monitoring: drift, matured performance, verdict")
        with run.step("monitor"):
            verdict = monitor(progress=run.progress).report.verdict
        note(f"Retraining on the verdict: {verdict.level}")
        with run.step("retrain"):
            retrained = retrain(progress=run.progress)
        served = _served(url, retrained.challenger if retrained.promoted else trained.version)
    run.seconds["total"] = round(sum(s for name, s in run.seconds.items() if name not in _INSIDE_SERVE), 2)
    holdout = {name: report.as_dict() for name, report in trained.reports.items()}
    return {
        "data": str(data.name) if data else "simulated",
        "rows": rows,
        "features": {"service": "fraud_v1", "count": features},
        "protocol": {"week": protocol.week if protocol else None},
        "models": {
            name: {
                "holdout": holdout.get(name),
                **({"week": None, "prequential": None} if not protocol else protocol.models.get(name, {})),
            }
            for name in ("catboost", "logistic_regression", "rules", "logistic_regression_published_features")
        },
        "published": protocol.published if protocol else None,
        "replay": {
            "scored": replayed_report.scored,
            "errors": replayed_report.errors,
            "examples": replayed_report.examples,
            "p50_ms": replayed_report.p50_ms,
            "p99_ms": replayed_report.p99_ms,
            "chargebacks": replayed_report.chargebacks,
            "decisions": dict(replayed_report.decisions),
            "degraded": dict(replayed_report.degraded),
            "from": start.isoformat(),
        },
        "parity": {
            "decisions": audited.decisions,
            "features": audited.features,
            "values_compared": audited.values_compared,
            "mismatches": audited.mismatches,
            "scores_compared": audited.scores_compared,
            "score_mismatches": audited.score_mismatches,
            "attributed": audited.attributed,
        },
        "monitor": {"verdict": verdict.level, "reasons": list(verdict.reasons)},
        "retrain": {"promoted": retrained.promoted, "why": retrained.why, "served": served},
        "seconds": run.seconds,
    }


# These steps are parts of the step "serve".
_INSIDE_SERVE = ("replay", "parity", "monitor", "retrain")


def _judge(document: dict[str, Any]) -> None:
    replayed, audited = document["replay"], document["parity"]
    if replayed["errors"]:
        raise DemoError(
            f"replay: {replayed['errors']} requests were not answered with 200: {replayed['examples']}"
        )
    if replayed["degraded"]:
        raise DemoError(f"replay: decisions without the model: {replayed['degraded']}")
    if audited["decisions"] != replayed["scored"]:
        raise DemoError(f"parity: {audited['decisions']} decisions audited, {replayed['scored']} scored")
    if audited["mismatches"] or audited["score_mismatches"]:
        raise DemoError(
            f"parity: {audited['mismatches']} features and {audited['score_mismatches']} scores differ: {audited['attributed']}"
        )


def _fresh_home(home: Path) -> Path:
    home = home.resolve()
    if home.exists():
        if not (home / MARKER).is_file():
            raise FileExistsError(
                f"{home}: exists and was not made by a demo; name another folder (--folder)"
            )
        from feature_repo.windows import embedded

        embedded.stop(home)
        shutil.rmtree(home)
    home.parent.mkdir(parents=True, exist_ok=True)
    make_private(home)
    (home / MARKER).touch()
    return home


@contextmanager
def _environment(**values: str | None) -> Iterator[None]:
    """These variables within, and what they were after it; None is unset."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _load(
    lake: Path, data: Path | None, mapping: str, transactions: int, progress: Progress
) -> dict[str, int]:
    from pipelines.ingest import ingest
    from pipelines.simulate import simulate

    if data is not None:
        report = ingest(data, mapping, lake, None, progress)
    else:
        events, chargebacks = simulate(
            transactions, days=SIMULATED_DAYS, seed=SIMULATED_SEED, start=SIMULATED_START
        )
        report = ingest(events, "canonical", lake, chargebacks, progress)
    return {"transactions": report.transactions_added, "chargebacks": report.chargebacks_added}


def _apply() -> int:
    from feature_repo.store import apply_definitions, open_store, service_features

    store = open_store()
    apply_definitions(store)
    return len(service_features(store.get_feature_service("fraud_v1")))


def _stretch(lake: Path) -> tuple[datetime, datetime]:
    """Where the replay begins, at a UTC midnight, and the end of the data."""
    from pipelines.train import bounds
    from training.instants import from_us

    end = from_us(bounds(lake, "transactions", "event_timestamp")[1] + 1)
    return (end - REPLAY_BEFORE_END).replace(hour=0, minute=0, second=0, microsecond=0), end


def _materialize(end: datetime) -> None:
    import contextlib
    import io

    from feature_repo.store import open_store

    # Feast prints its own progress, made for its own command line.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        open_store().materialize(datetime(1970, 1, 1, tzinfo=UTC), end)


def _served(url: str, version: str | None, seconds: float = 30.0) -> str:
    """The version that the service answers with, once it follows the alias.

    Raises:
        DemoError: it does not within ``seconds``.
    """
    import httpx

    deadline = time.monotonic() + seconds
    served = ""
    while time.monotonic() < deadline:
        served = str(httpx.get(f"{url}/v1/model").json().get("version"))
        if served == version:
            return served
        time.sleep(0.2)
    raise DemoError(
        f"service: serves model version {served} {seconds:.0f} s after version {version} became champion"
    )
