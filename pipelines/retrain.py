"""``fraud retrain``: act on the last verdict of ``fraud monitor``, and on nothing else.

If it says ``retrain``, a challenger is trained on newer data as the champion was (the same FeatureService,
maturity and lengths of training and test, the fold moved to the newest matured labels), registered under the
alias ``challenger``, and judged beside the champion on the same rows: the challenger's test rows, which
neither has learned from. The alias ``champion`` moves only if the challenger is better
(``training.promotion``); a running service follows the alias. What was done and why is written to
``FRAUD_HOME/retrain``.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feature_repo.settings import settings
from feature_repo.store import definitions_digest, open_store
from pipelines import monitor
from pipelines.load_journal import load_journal
from pipelines.model_runs import Origin, origin
from pipelines.outcomes import every, latest, save
from pipelines.progress import Progress, quiet
from pipelines.rollout_notes import note_champion
from pipelines.train import known_until, labelled_fold, train_model
from training.bundle import Bundle
from training.dataset import build_dataset
from training.promotion import Judgement, judge_bundles
from training.registry import load_champion, promote
from training.splits import Fold, Rows, split

__all__ = ["FOLDER", "Retraining", "retrain"]

FOLDER = "retrain"
# Where the champion's run says nothing: a month of training and a week of test, as ``fraud train`` does.
TRAIN_DAYS, TEST_DAYS = 28, 7


@dataclass(frozen=True)
class Retraining:
    """What was done and why.

    Attributes:
        verdict: the level acted on and ``verdict_file`` where it stands; None without one (only if forced).
        champion, challenger: versions; None where there was none.
        judgement: both on the same rows; None if none was trained.
        promoted: whether the alias moved.
        path: the file that says all this.
    """

    verdict: str | None
    verdict_file: str | None
    forced: bool
    champion: str | None
    challenger: str | None
    judgement: Judgement | None
    promoted: bool
    why: str
    path: Path

    def summary(self) -> str:
        """The outcome in a line or two."""
        return f"{self.why}\nwritten to {self.path}"


@dataclass(frozen=True)
class _Done:
    why: str
    champion: str | None = None
    challenger: str | None = None
    judgement: Judgement | None = None
    promoted: bool = False


def retrain(
    *,
    force: bool = False,
    as_of: datetime | None = None,
    progress: Progress = quiet,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Retraining:
    """Act on the last verdict.

    Args:
        force: train and judge whatever the verdict says; the alias still moves only to a better model.
        as_of: labels known by then are used (default: the moment after the last event that the lake knows).
        clock: names the outcome's file.

    Raises:
        LookupError: there is no champion.
        ValueError: too little newer history, or the champion has learned from the rows to judge on.
    """
    here = settings()
    found = latest(here.home / monitor.FOLDER)
    level = None if found is None else str(found[1]["verdict"]["level"])
    verdict_file = None if found is None else found[0].name
    reason = _reason_to_rest(level, verdict_file, _acted_on(here.home / FOLDER))
    done = _Done(reason) if reason and not force else _challenge(as_of, progress)
    document = {"verdict": level, "verdict_file": verdict_file, "forced": force, **asdict(done)}
    path = save(here.home / FOLDER, clock(), document)
    return Retraining(verdict=level, verdict_file=verdict_file, forced=force, path=path, **vars(done))


def _reason_to_rest(level: str | None, verdict_file: str | None, acted_on: set[str]) -> str | None:
    if level is None:
        return "nothing done: there is no verdict yet (fraud monitor)"
    if level != "retrain":
        return f"nothing done: the last verdict is {level}"
    if verdict_file in acted_on:
        return "nothing done: the last verdict was acted on before; measure again (fraud monitor)"
    return None


def _acted_on(folder: Path) -> set[str]:
    """Files of the verdicts for which a challenger was trained."""
    return {str(each["verdict_file"]) for each in every(folder) if each.get("challenger") is not None}


def _challenge(as_of: datetime | None, progress: Progress) -> _Done:
    here = settings()
    load_journal(here.journal, here.lake, progress=progress)
    champion, version = load_champion()
    made = origin(champion, version)
    _check_definitions(champion, version)
    as_of = as_of or known_until(here.lake)
    fold = labelled_fold(
        here.lake,
        as_of,
        made.maturity,
        train_days=made.train_days or TRAIN_DAYS,
        test_days=made.test_days or TEST_DAYS,
    )
    _check_unseen(made, fold, version)
    result = train_model(
        champion.feature_service,
        fold=fold,
        as_of=as_of,
        maturity=made.maturity,
        champion=False,
        progress=progress,
    )
    judgement = _judge(champion, result.bundle, fold, as_of, made)
    if judgement.promote:
        promote(result.version)
        note_champion(
            "retrain",
            version,
            result.version,
            evidence={"judgement": judgement.as_dict()},
            why=judgement.reason,
        )
    return _Done(judgement.reason, version, result.version, judgement, judgement.promote)


def _judge(champion: Bundle, challenger: Bundle, fold: Fold, as_of: datetime, made: Origin) -> Judgement:
    """Both on the fold's test rows."""
    dataset = build_dataset(
        open_store(),
        champion.feature_service,
        fold.train_start,
        fold.test_end,
        as_of=as_of,
        maturity=made.maturity,
    )
    rows = Rows.of(dataset)
    test = split(rows, fold).test
    values = dataset.values()[test]
    at = {name: i for i, name in enumerate(dataset.feature_names)}
    own = [values[:, [at[name] for name in bundle.feature_names]] for bundle in (champion, challenger)]
    return judge_bundles(champion, challenger, _take(rows, test), own[0], own[1])


def _take(rows: Rows, index: Any) -> Rows:
    return Rows(
        event_us=rows.event_us[index],
        customers=rows.customers[index],
        amounts_usd_cents=rows.amounts_usd_cents[index],
        labels=rows.labels[index],
        label_known_us=rows.label_known_us[index],
        maturity_us=rows.maturity_us,
    )


def _check_definitions(champion: Bundle, version: str) -> None:
    now = definitions_digest(open_store(), champion.feature_service)
    if now != champion.definitions_digest:
        raise ValueError(
            f"retrain: {champion.feature_service} is defined as {now} and champion {version} learned from "
            f"{champion.definitions_digest}, so the two cannot be judged on the same rows; "
            "train a champion on the new definitions (fraud train)"
        )


def _check_unseen(made: Origin, fold: Fold, version: str) -> None:
    if made.train_end is not None and made.train_end > fold.test_start:
        raise ValueError(
            f"retrain: champion {version} was trained on rows up to {made.train_end.isoformat()}, after the "
            f"rows to judge on begin ({fold.test_start.isoformat()}); wait for newer labels, or name a later as_of"
        )
