"""Fit the model beside its baselines, judge all on the same later rows, and put the result into the registry.

The model is calibrated on the last fifth of the training rows, scored by a model that was fitted to the first four; what is
served is then fitted to all of them, under that calibration. So no row is lost to calibration, and none calibrates the
model that learned from it.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from training.bundle import Bundle, BundleSpec, write_bundle
from training.calibration import Calibration, fit_calibration
from training.charts import calibration_chart, importance_chart, precision_recall_chart, write_page
from training.dataset import Dataset
from training.evaluation import Evaluation, evaluate, guard_against_leak
from training.models import CatBoostModel, LogisticModel, Model, RulesModel, probability
from training.policy import Costs, Policy, cost_report
from training.registry import load_version, register
from training.rules import REQUEST_COLUMNS, fit_rules, request_columns
from training.splits import Fold, Rows, Split, days_of, split
from training.tracking import connect, experiment_id

__all__ = ["ModelReport", "Profiler", "Progress", "TrainResult", "train"]

FloatArray = npt.NDArray[np.float64]

Progress = Callable[[str, int, int], None]
"""Called with (what is done, steps done, steps in all)."""

Profiler = Callable[[dict[str, FloatArray]], Mapping[str, Any]]
"""Makes the drift reference of the bundle from columns by name: the training rows' features, the test rows' score."""

CALIBRATION_SHARE: Final = 0.2
_STEPS: Final = 6


@dataclass(frozen=True)
class ModelReport:
    """How one model did on the test rows, and what its decisions would have cost."""

    evaluation: Evaluation
    costs: Costs

    def as_dict(self) -> dict[str, float]:
        """All measures by name."""
        return {**self.evaluation.as_dict(), **asdict(self.costs)}


@dataclass(frozen=True)
class TrainResult:
    """A registered model version: the bundle as loaded back from the registry, and how it did beside the baselines."""

    version: str
    run_id: str
    bundle: Bundle
    reports: dict[str, ModelReport]
    train_rows: int
    train_frauds: int
    test_rows: int
    test_frauds: int
    importance: dict[str, float]

    @property
    def outdone_by(self) -> list[str]:
        """The baselines that rank the test rows at least as well as the model, by average precision."""
        precision = {name: report.evaluation.average_precision for name, report in self.reports.items()}
        model = precision.pop("catboost")
        return [name for name, found in precision.items() if found >= model]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready data, without the bundle."""
        data = {name: value for name, value in vars(self).items() if name not in ("bundle", "reports")}
        return data | {"models": {name: report.as_dict() for name, report in self.reports.items()}}


@dataclass(frozen=True)
class _Fitted:
    """What was learned, before it is written down."""

    model: CatBoostModel
    spec: BundleSpec
    test_scores: dict[str, FloatArray]
    reports: dict[str, ModelReport]


def train(
    dataset: Dataset,
    fold: Fold,
    *,
    policy: Policy | None = None,
    profiler: Profiler | None = None,
    parameters: dict[str, Any] | None = None,
    definitions: dict[str, Any] | None = None,
    threads: int = 2,
    progress: Progress | None = None,
) -> TrainResult:
    """Fit CatBoost, rules and logistic regression on the fold's training rows, judge them on its test rows, register.

    The version gets no alias: ``training.registry.promote`` or ``set_alias`` decides what it is.

    Args:
        dataset: labelled rows from before ``fold.train_start`` on to ``fold.test_end``.
        policy: what decisions cost (default: ``Policy()``).
        profiler: makes ``profile.json`` beside the bundle; without one there is none.
        parameters: CatBoost's, over ``CATBOOST_PARAMETERS``.
        definitions: what the features mean, to be served by when others are registered (``BundleSpec``).
        threads: of CatBoost.

    Raises:
        ValueError: a part of the split is empty or has one class only.
        LeakError: the result is too good to be honest; nothing is registered.
    """
    tell = progress or (lambda step, done, total: None)
    rows, values = Rows.of(dataset), dataset.values()
    parts = split(rows, fold)
    fitted = _fit(dataset, rows, values, parts, policy or Policy(), parameters, threads, tell)
    fitted = replace(fitted, spec=replace(fitted.spec, definitions=definitions))
    guard_against_leak(fold, fitted.reports["catboost"].evaluation)
    importance = dict(zip(dataset.feature_names, map(float, fitted.model.importance()), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(Path(folder) / "bundle", fitted.model.classifier, fitted.spec)
        if profiler is not None:
            columns = {name: values[parts.train, i] for i, name in enumerate(dataset.feature_names)}
            columns["score"] = fitted.test_scores["catboost"]
            (bundle / "profile.json").write_text(json.dumps(profiler(columns)), encoding="utf-8")
        tell("logging to MLflow", 5, _STEPS)
        run_id, version = _log(Path(folder), dataset, fold, parts, fitted, importance)
    tell("registered", _STEPS, _STEPS)
    return TrainResult(
        version=version,
        run_id=run_id,
        bundle=load_version(version),
        reports=fitted.reports,
        train_rows=len(parts.train),
        train_frauds=int(parts.train_labels.sum()),
        test_rows=len(parts.test),
        test_frauds=int(parts.test_labels.sum()),
        importance=dict(sorted(importance.items(), key=lambda item: -item[1])),
    )


def _fit(
    dataset: Dataset,
    rows: Rows,
    values: FloatArray,
    parts: Split,
    policy: Policy,
    parameters: dict[str, Any] | None,
    threads: int,
    tell: Progress,
) -> _Fitted:
    learn, labels, test = values[parts.train], parts.train_labels, values[parts.test]
    tell("calibration", 0, _STEPS)
    calibration = _calibrate(learn, labels, CatBoostModel(parameters, threads=threads))
    tell("CatBoost", 1, _STEPS)
    model = CatBoostModel(parameters, threads=threads).fit(learn, labels)
    tell("logistic regression", 2, _STEPS)
    baselines: list[Model] = [LogisticModel().fit(learn, labels)]
    tell("rules", 3, _STEPS)
    rules = RulesModel(dataset.feature_names).fit(learn, labels)
    baselines.append(rules)
    tell("evaluation", 4, _STEPS)
    scores = {model.name: calibration.probability(model.margin(test))}
    scores |= {baseline.name: probability(baseline.margin(test)) for baseline in baselines}
    request = request_columns(rows.amounts_usd_cents[parts.train], rows.event_us[parts.train])
    spec = BundleSpec(
        feature_service=dataset.manifest["feature_service"],
        definitions_digest=dataset.manifest["definitions_digest"],
        feature_names=dataset.feature_names,
        calibration=calibration,
        policy=policy,
        fallback=fit_rules(request, labels, REQUEST_COLUMNS),
        training={
            "dataset": dataset.manifest,
            "catboost": model.parameters,
            "rules": [str(rule) for rule in rules.rules.rules],
        },
    )
    reports = {name: _report(rows, parts, score, policy) for name, score in scores.items()}
    return _Fitted(model, spec, scores, reports)


def _calibrate(values: FloatArray, labels: npt.NDArray[np.int8], model: CatBoostModel) -> Calibration:
    """Rows are in time order, so the held-out last part is the latest."""
    cut = int(len(labels) * (1 - CALIBRATION_SHARE))
    model.fit(values[:cut], labels[:cut])
    return fit_calibration(model.margin(values[cut:]), labels[cut:])


def _report(rows: Rows, parts: Split, scores: FloatArray, policy: Policy) -> ModelReport:
    evaluation = evaluate(
        parts.test_labels,
        scores,
        customers=rows.customers[parts.test],
        days=days_of(rows.event_us[parts.test]),
    )
    return ModelReport(
        evaluation, cost_report(policy, scores, parts.test_labels, rows.amounts_usd_cents[parts.test])
    )


def _log(
    folder: Path, dataset: Dataset, fold: Fold, parts: Split, fitted: _Fitted, importance: dict[str, float]
) -> tuple[str, str]:
    """Log a run, and register its bundle; the run is marked as failed if that fails."""
    client = connect()
    manifest = dataset.manifest
    run_id = str(
        client.create_run(experiment_id(client), run_name=f"train {manifest['feature_service']}").info.run_id
    )
    try:
        _log_parameters(client, run_id, manifest, fold, fitted)
        for name, report in fitted.reports.items():
            for measure, value in report.as_dict().items():
                client.log_metric(run_id, f"{name}.{measure}", float(value))
        evaluation = {name: report.as_dict() for name, report in fitted.reports.items()}
        client.log_dict(run_id, evaluation, "evaluation.json")
        client.log_dict(run_id, manifest, "dataset.json")
        client.log_dict(run_id, importance, "importance.json")
        page = folder / "charts.html"
        write_page(page, f"{manifest['feature_service']}: evaluation", _figures(parts, fitted, importance))
        client.log_artifact(run_id, str(page))
        version = register(folder / "bundle", run_id)
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")
    return run_id, version


def _log_parameters(client: Any, run_id: str, manifest: dict[str, Any], fold: Fold, fitted: _Fitted) -> None:
    parameters = {f"catboost.{name}": value for name, value in fitted.model.parameters.items()}
    parameters |= {f"fold.{name}": value for name, value in asdict(fold).items()}
    parameters |= {f"policy.{name}": value for name, value in fitted.spec.policy.as_dict().items()}
    parameters |= {f"delta_version.{name}": version for name, version in manifest["versions"].items()}
    kept = (
        "feature_service",
        "definitions_digest",
        "digest",
        "start",
        "end",
        "as_of",
        "maturity_us",
        "rows",
        "frauds",
    )
    parameters |= {f"dataset.{name}": manifest[name] for name in kept}
    for name, value in parameters.items():
        client.log_param(run_id, name, value)


def _figures(parts: Split, fitted: _Fitted, importance: dict[str, float]) -> list[Any]:
    return [
        precision_recall_chart(parts.test_labels, fitted.test_scores),
        calibration_chart(parts.test_labels, fitted.test_scores),
        importance_chart(list(importance), np.array(list(importance.values()))),
    ]
