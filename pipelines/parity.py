"""``fraud parity``: load what the service recorded into the lake, then audit every journalled decision against it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from feature_repo.journal import read_decisions
from feature_repo.settings import settings
from feature_repo.store import defined_service, open_store
from monitoring.parity import BundleLoader, ParityReport, audit
from pipelines.load_journal import JournalLoad, count_lines, load_journal
from pipelines.outcomes import save
from pipelines.progress import Progress, quiet
from training.bundle import Bundle
from training.registry import MODEL_NAME, load_version

__all__ = ["FOLDER", "ParityRun", "parity", "registry_loader"]

FOLDER = "parity"
_WAY_OUT = {
    "late_event": "the service counted events before the lake says they were known; compare the clocks of who writes both",
    "missing_in_lake": "the service counted events that the lake lacks; load them (fraud ingest)",
    "missing_in_state": "the online store lacked events of the lake; load them again (feast materialize), which doubles none",
}


@dataclass(frozen=True)
class ParityRun:
    """An audit, what was loaded before it, and the file that says both."""

    loaded: JournalLoad
    report: ParityReport
    path: Path

    @property
    def exit_code(self) -> int:
        """0 if decisions were compared and nothing differs; nothing compared proves nothing."""
        return 0 if self.report.holds and self.report.decisions else 1

    def summary(self) -> str:
        """What a person wants to know, in a few lines."""
        report = self.report
        lines = [
            f"{report.decisions:,} decisions, {report.features} features, {report.values_compared:,} values: "
            f"{report.mismatches:,} differ",
            f"{report.scores_compared:,} scores: {report.score_mismatches:,} differ",
        ]
        lines += _reasons(report)
        lines += [
            f"  {each.transaction_id} {each.feature}: journalled {each.journalled!r}, "
            f"recomputed {each.recomputed!r} ({each.reason})"
            for each in report.examples[:5]
        ]
        lines += _beside(report.beside)
        if not report.decisions:
            lines = ["no decision with features is in the journal: there is nothing to audit"]
        if report.without_features:
            lines.append(f"{report.without_features:,} decisions were taken without features")
        return "\n".join([*lines, f"written to {self.path}"])


def _beside(report: ParityReport | None) -> list[str]:
    """Of models that were scored beside the one that decided."""
    if report is None:
        return []
    return [
        f"scored beside: {report.values_compared:,} values of their own: {report.mismatches:,} differ; "
        f"{report.scores_compared:,} scores: {report.score_mismatches:,} differ",
        *_reasons(report),
    ]


def _reasons(report: ParityReport) -> list[str]:
    """Why values differ, and what to do about it."""
    return [
        f"  {count:,} {reason}" + (f": {_WAY_OUT[reason]}" if reason in _WAY_OUT else "")
        for reason, count in report.attributed.items()
    ]


def parity(
    *,
    feature_service: str | None = None,
    bundle_loader: BundleLoader | None = None,
    progress: Progress = quiet,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> ParityRun:
    """Audit the journal of this deployment, and write the outcome to ``FRAUD_HOME/parity``.

    Args:
        feature_service: audit only decisions made with it.
        bundle_loader: where models come from (default: the registry).
        clock: names the outcome's file.

    Raises:
        FileNotFoundError: there is no lake.
        ValueError: ``feature_service`` is neither defined nor in the journal.
    """
    here = settings()
    if feature_service is not None:
        _check_service(feature_service, here.journal)
    loaded = load_journal(here.journal, here.lake, progress=progress)
    total = count_lines(here.journal, "decisions")
    report = audit(
        open_store(),
        here.journal,
        feature_service=feature_service,
        bundle_loader=bundle_loader or registry_loader,
        progress=lambda step, done, _: progress(step, done, total),
    )
    path = save(
        here.home / FOLDER, clock(), {"loaded": asdict(loaded), **asdict(report), "holds": report.holds}
    )
    return ParityRun(loaded, report, path)


def _check_service(name: str, journal: Path) -> None:
    # What is defined no more can be audited as long as the journal has decisions made with it.
    try:
        defined_service(name)
    except ValueError:
        if not any(record["feature_service"] == name for record in read_decisions(journal)):
            raise


def registry_loader(name: str, version: str) -> Bundle:
    """A version of the registered model.

    Raises:
        LookupError: the registry has no such model or version.
    """
    if name != MODEL_NAME:
        raise LookupError(
            f"registry: model {name!r} is not {MODEL_NAME!r}, the one that this project registers"
        )
    return load_version(version)
