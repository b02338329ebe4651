"""The parity audit: every journalled feature recomputed offline and compared to the bit, every score with it.

Drift measures cannot see a mis-join (terminal features shuffled: average precision .821 to .247, PSI of the
score .0016), so this comes first. A decision asks again exactly what it asked: its keys, its instant, what
was known at it, its request; the answer now comes from the lake, and must be the 64 bits that the journal
holds (null equals null). The score is recomputed from the *journalled* features with the model version that
the journal names, so that a difference there is the model's and not the features'.

Where a second model was scored beside the one that decided, its features and score are audited likewise, and reported apart;
features that it has alike with the other one are audited once.

The audit only reads: the service's recorded events must be in the lake before it
(``pipelines.load_journal``).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from feast import FeatureStore
from feast.errors import FeatureServiceNotFoundException

from feature_repo.journal import read_decisions
from monitoring.attribution import EXAMINED, Compared, Reason, attribute
from monitoring.beside import record_beside
from monitoring.decisions import BATCH, Decisions, batches
from monitoring.recompute import Service, recompute, resolve, same_bits
from training.bundle import BundleError

__all__ = ["EXAMPLES", "Example", "ParityReport", "Progress", "ScoringModel", "audit"]

EXAMPLES = 20
# Later than any event: asked as of then, no event is too late to count. Within the range of nanoseconds, as
# pandas needs.
_FOR_EVER_US = 9_000_000_000_000_000

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]
"""``progress(step, decisions done, total)``; the total is 0: the journal's length is not known."""


class ScoringModel(Protocol):
    """What the audit needs of a model bundle."""

    @property
    def feature_names(self) -> tuple[str, ...]: ...

    def score(self, values: Floats) -> Floats: ...


BundleLoader = Callable[[str, str], ScoringModel]
"""From model name and version to the bundle; raises LookupError if there is none, BundleError if it is damaged."""


@dataclass(frozen=True)
class Example:
    """One difference: ``feature`` is ``score`` for a score; null is None; floats print to their last bit."""

    transaction_id: str
    feature: str
    journalled: float | None
    recomputed: float | None
    reason: Reason


@dataclass
class ParityReport:
    """What was compared and what differed.

    Attributes:
        decisions: decisions whose features were compared.
        features: distinct features among them.
        values_compared: feature values, one a decision and feature.
        mismatches: feature values that differ; ``by_feature`` says which.
        scores_compared, score_mismatches: likewise for scores.
        attributed: all mismatches, of features and scores, by reason.
        examples: the first ``EXAMPLES`` differences.
        without_features: decisions taken without features (degraded), which have nothing to compare.
        beside: the same of the models that were scored beside and did not decide; None if there were none.
    """

    decisions: int = 0
    features: int = 0
    values_compared: int = 0
    mismatches: int = 0
    scores_compared: int = 0
    score_mismatches: int = 0
    attributed: dict[str, int] = field(default_factory=dict)
    by_feature: dict[str, int] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    without_features: int = 0
    beside: "ParityReport | None" = None

    @property
    def holds(self) -> bool:
        """Whether nothing differs."""
        alike = not self.mismatches and not self.score_mismatches
        return alike and (self.beside is None or self.beside.holds)


def audit(
    store: FeatureStore,
    journal_folder: Path,
    *,
    feature_service: str | None = None,
    bundle_loader: BundleLoader | None = None,
    progress: Progress | None = None,
    batch: int = BATCH,
) -> ParityReport:
    """Audit the journalled decisions, ``batch`` at a time.

    Args:
        feature_service: audit only decisions made with it (None: all, each with its own).
        bundle_loader: where models come from (None: scores are not audited).
        progress: called after each batch.
    """
    auditor, beside = _Auditor(store, bundle_loader), _Auditor(store, bundle_loader)
    records, any_beside = read_decisions(journal_folder), False
    while chunk := list(islice(records, batch)):
        for rows in batches(_chosen(chunk, feature_service), batch):
            auditor.add(rows)
        for rows in batches(_beside(chunk, feature_service), batch):
            beside.add(rows)
            any_beside = True
        if progress is not None:
            progress("parity audit", auditor.report.decisions + auditor.report.without_features, 0)
    report = auditor.finished()
    report.beside = beside.finished() if any_beside else None
    return report


def _chosen(records: Iterable[Mapping[str, Any]], feature_service: str | None) -> Iterator[Mapping[str, Any]]:
    for record in records:
        if feature_service is None or record["feature_service"] == feature_service:
            yield record


def _beside(records: Iterable[Mapping[str, Any]], feature_service: str | None) -> Iterator[dict[str, Any]]:
    for record in records:
        found = record_beside(record)
        if found is None or feature_service not in (None, found["feature_service"]):
            continue
        if found["feature_service"] == record["feature_service"] and not record["beside"]["features"]:
            # All of its features are the other model's, and compared there.
            found["feature_service"] = None
        yield found


class _Auditor:
    def __init__(self, store: FeatureStore, bundle_loader: BundleLoader | None) -> None:
        self.report = ParityReport()
        self._store = store
        self._load = bundle_loader
        self._services: dict[str, Service | None] = {}
        self._models: dict[tuple[str, str], ScoringModel | None] = {}
        self._names: set[str] = set()
        self._attributed: Counter[str] = Counter()
        self._by_feature: Counter[str] = Counter()

    def add(self, rows: Decisions) -> None:
        """Compare a batch."""
        self.report.without_features += int((~rows.has_features).sum())
        for name in sorted({name for name in rows.feature_service if name is not None}):
            chosen = np.array([each == name for each in rows.feature_service]) & rows.has_features
            if chosen.any():
                self._features(name, rows.take(chosen))
        for model in sorted({model for model in rows.model if model is not None}):
            chosen = np.array([each == model for each in rows.model]) & ~np.isnan(rows.score)
            if chosen.any() and self._load is not None:
                self._scores(model, rows.take(chosen))

    def finished(self) -> ParityReport:
        """The report, with counts in order of size."""
        self.report.features = len(self._names)
        self.report.attributed = dict(self._attributed.most_common())
        self.report.by_feature = dict(self._by_feature.most_common())
        return self.report

    def _features(self, name: str, rows: Decisions) -> None:
        service = self._service(name)
        names = rows.feature_names if service is None else service.feature_names
        seen = rows.columns(names)
        now = np.full_like(seen, np.nan) if service is None else recompute(self._store, service, rows)
        self._names.update(names)
        self.report.decisions += len(rows)
        self.report.values_compared += seen.size
        differs = ~same_bits(seen, now)
        for row, reasons in self._reasons(service, rows, seen, now, np.flatnonzero(differs.any(axis=1))):
            for column in np.flatnonzero(differs[row]):
                reason = reasons if isinstance(reasons, str) else reasons[names[column]]
                self.report.mismatches += 1
                self._by_feature[names[column]] += 1
                self._note(rows, row, names[column], (seen[row, column], now[row, column]), reason)

    def _reasons(
        self, service: Service | None, rows: Decisions, seen: Floats, now: Floats, index: Ints
    ) -> Iterator[tuple[int, Reason | dict[str, Reason]]]:
        """For each differing decision (by row), one reason for all of its features, or one a feature."""
        same = [i for i in index if service is not None and rows.definitions_digest[i] == service.digest]
        for row in sorted(set(index.tolist()) - set(same)):
            yield row, "other_definitions"
        examined = np.array(same[:EXAMINED], dtype=np.int64)
        if service is not None and examined.size:
            chosen = rows.take(np.isin(np.arange(len(rows)), examined))
            later = recompute(self._store, service, chosen, np.full(len(chosen), _FOR_EVER_US))
            compared = Compared(chosen, seen[examined], now[examined], later, (rows, now))
            yield from zip(examined.tolist(), attribute(service, compared), strict=True)
        for row in same[EXAMINED:]:
            yield int(row), "not_examined"

    def _scores(self, model: tuple[str, str], rows: Decisions) -> None:
        bundle = self._model(model)
        self.report.scores_compared += len(rows)
        nothing = np.full(len(rows), np.nan)
        again = nothing if bundle is None else bundle.score(rows.columns(bundle.feature_names))
        for row in np.flatnonzero(~same_bits(rows.score, again)):
            reason = self._score_reason(model, rows.take(np.arange(len(rows)) == row))
            self.report.score_mismatches += 1
            self._note(rows, int(row), "score", (rows.score[row], again[row]), reason)

    def _score_reason(self, model: tuple[str, str], row: Decisions) -> Reason:
        """Another model's score: one that another journalled version gives, or of a version that is gone."""
        if self._models[model] is None:
            return "other_model"
        for other, bundle in self._models.items():
            if other != model and bundle is not None:
                again = bundle.score(row.columns(bundle.feature_names))
                if same_bits(row.score, again).all():
                    return "other_model"
        return "unexplained"

    def _note(
        self, rows: Decisions, row: int, feature: str, values: tuple[float, float], reason: Reason
    ) -> None:
        self._attributed[reason] += 1
        if len(self.report.examples) < EXAMPLES:
            journalled, recomputed = (None if np.isnan(value) else float(value) for value in values)
            self.report.examples.append(
                Example(rows.transaction_id[row], feature, journalled, recomputed, reason)
            )

    def _service(self, name: str) -> Service | None:
        """The service as defined now; None if it is defined no more."""
        if name not in self._services:
            try:
                self._services[name] = resolve(self._store, name)
            except FeatureServiceNotFoundException:
                self._services[name] = None
        return self._services[name]

    def _model(self, model: tuple[str, str]) -> ScoringModel | None:
        """The model's bundle; None if it cannot be loaded any more."""
        if model not in self._models and self._load is not None:
            try:
                self._models[model] = self._load(*model)
            except (LookupError, BundleError):
                self._models[model] = None
        return self._models[model]
