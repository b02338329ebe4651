"""``fraud rollout``: who decides, changed step by step, each step with its evidence in the ledger.

A change is written to the model registry, where every running service sees it within seconds, and then to the ledger of this
deployment (``training.ledger``). What a guard rail ended elsewhere, and said in the registry, is taken into the ledger by the
next verb.
"""

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from feature_repo.journal import read_lines
from feature_repo.settings import make_private, settings
from monitoring.comparison import Comparison, Pairs, compare, pairs
from pipelines.rollout_evidence import matured
from pipelines.rollout_notes import note_champion, who_am_i
from training.ledger import Ledger, ended_line
from training.registry import load_version, promote, set_alias
from training.rollout import ALONE, Guards, Mode, Rollout
from training.rollout_registry import Look, RolloutRegistry

__all__ = ["LEAST_SCORED", "Change", "Desk", "Status"]

LEAST_SCORED: Final = 100
"""Transactions that both models must have scored before a promotion needs no ``--force``."""

_NAMES: Final = {
    "champion": "the champion alone",
    "shadow": "shadow: scored and journalled, not acted upon",
    "canary": "canary",
    "ab": "A/B test",
}


@dataclass(frozen=True)
class Change:
    """A change that was made: its line in the ledger."""

    entry: Mapping[str, Any]

    def summary(self) -> str:
        """In a few lines."""
        before, after = self.entry["from"], self.entry["to"]
        lines = [f"before: {_state(before)}", f"now:    {_state(after)}"]
        evidence = self.entry["evidence"]
        if "comparison" in evidence:
            lines += _compared(evidence["comparison"])
        if evidence.get("matured"):
            lines.append(f"on matured labels: {evidence['matured']['reason']}")
        return "\n".join([*lines, "running services follow within 5 seconds"])


@dataclass(frozen=True)
class Status:
    """How things stand.

    Attributes:
        rollout: the document in force; ``unreadable`` says why there is none that can be read.
        ended: what is said of its end. refused: by service process, why it cannot serve the challenger.
        comparison: of champion and challenger in this deployment's journal; None without a challenger.
    """

    champion: str | None
    rollout: Rollout
    unreadable: str | None
    ended: Mapping[str, Any] | None
    refused: Mapping[str, str]
    comparison: Comparison | None
    ledger: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)

    def summary(self) -> str:
        """For people."""
        lines = [_state({"champion": self.champion, **_described(self.rollout)})]
        if self.rollout.who:
            lines.append(f"since {self.rollout.since}, by {self.rollout.who}")
        if self.unreadable:
            lines.append(self.unreadable)
        if self.ended:
            lines.append(f"ended {self.ended.get('at')} by {self.ended.get('who')}: {self.ended.get('why')}")
        lines += [f"refused by {where}: {why}" for where, why in self.refused.items()]
        if self.comparison is not None:
            lines += _compared(self.comparison.as_dict())
        lines += ["ledger:", *(f"  {_line(each)}" for each in self.ledger)] if self.ledger else []
        return "\n".join(lines)


class Desk:
    """Where changes are made.

    Args:
        who: signs them. clock: dates them.
    """

    def __init__(
        self,
        who: str | None = None,
        *,
        registry: RolloutRegistry | None = None,
        ledger: Ledger | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._who = who or who_am_i()
        self._registry, self._ledger = registry or RolloutRegistry(), ledger or Ledger()
        self._clock = clock

    def status(self, lines: int = 5) -> Status:
        """How things stand, with the ledger's last ``lines``; changes nothing but takes ends into the ledger."""
        found = self._look()
        rollout, unreadable = _readable(found)
        comparison = None
        if found.champion is not None and rollout.challenger is not None:
            comparison = _comparison(found.champion, rollout.challenger)[1]
        return Status(
            found.champion,
            rollout,
            unreadable,
            found.ended,
            found.refused,
            comparison,
            self._ledger.entries()[-lines:],
        )

    def shadow(self, version: str | None = None, guards: Mapping[str, float] | None = None) -> Change:
        """Have a challenger score beside the champion.

        Args:
            version: None is the one that is tried already, else the one with the alias ``challenger``.
            guards: those that are to differ from the rollout before.

        Raises:
            LookupError: there is no champion, or no such version. ValueError: it cannot be tried.
        """
        return self._try("shadow", version, 0.0, guards)

    def canary(
        self, percent: float, version: str | None = None, guards: Mapping[str, float] | None = None
    ) -> Change:
        """Have the challenger decide for a share of the customers; see ``shadow``."""
        return self._try("canary", version, percent / 100, guards)

    def ab(
        self, percent: float, version: str | None = None, guards: Mapping[str, float] | None = None
    ) -> Change:
        """The same for a comparison meant to last."""
        return self._try("ab", version, percent / 100, guards)

    def explore(self, share: float, up_to_usd_cents: int | None = None) -> Change:
        """Approve a small random share of would-be declines, so that labels are not selected by the model; 0 ends it."""
        with self._alone():
            found = self._look()
            _champion(found)
            before = _in_force(found)
            limit = up_to_usd_cents if share else None
            after = replace(before, explore=share, explore_up_to_usd_cents=limit)
            return self._write("explore", found, before, after)

    def promote(self, version: str | None = None, *, force: bool = False, why: str = "") -> Change:
        """Make the challenger the champion.

        Args:
            version: None is the one that is tried.
            force: though too few transactions were scored by both.

        Raises:
            LookupError: nothing is tried. ValueError: there is too little evidence.
        """
        with self._alone():
            found = self._look()
            champion, before = _champion(found), _in_force(found)
            version = version or before.challenger
            if version is None:
                raise LookupError(
                    "rollout: no challenger is tried, so there is none to promote; begin with fraud rollout shadow VERSION, "
                    "or name one: fraud rollout promote VERSION --force"
                )
            _check_version(version, champion)
            both, comparison = _comparison(champion, version)
            if comparison.scored < LEAST_SCORED and not force:
                raise ValueError(
                    f"rollout: champion {champion} and challenger {version} have both scored {comparison.scored} transactions "
                    f"in this journal, {LEAST_SCORED} are wanted; wait, or promote with --force"
                )
            evidence = {"comparison": comparison.as_dict(), "matured": matured(both, champion)}
            promote(version)
            return self._write("promote", found, before, before.ended(), version, evidence, why)

    def rollback(self, version: str | None = None, why: str = "") -> Change:
        """Have the champion decide alone; where it does, and was promoted last, go back to the one before it.

        Args:
            version: make this one the champion, whatever was.

        Raises:
            LookupError: there is nothing to go back from, or no such version.
        """
        with self._alone():
            found = self._look()
            champion = _champion(found)
            before, unreadable = _readable(found)
            evidence: dict[str, Any] = {}
            if version is None and before.challenger is None and unreadable is None:
                version = self._before_promotion(found)
            if version is not None and version != champion:
                load_version(version)
                promote(version)
            elif before.challenger is not None:
                evidence["comparison"] = _comparison(champion, before.challenger)[1].as_dict()
            return self._write("rollback", found, before, before.ended(), version or champion, evidence, why)

    def _try(
        self, mode: Mode, version: str | None, share: float, guards: Mapping[str, float] | None
    ) -> Change:
        with self._alone():
            found = self._look()
            champion, before = _champion(found), _in_force(found)
            version = version or before.challenger or found.challenger
            if version is None:
                raise LookupError(
                    f"rollout: no version is tried, and none has the alias 'challenger'; name one: fraud rollout {mode} VERSION, "
                    "or train one: fraud train --challenger"
                )
            _check_version(version, champion)
            given = {name: value for name, value in (guards or {}).items() if value is not None}
            after = replace(
                before,
                mode=mode,
                challenger=version,
                share=share,
                guards=Guards(**{**asdict(before.guards), **given}),
            )
            load_version(version)
            set_alias("challenger", version)
            return self._write(mode, found, before, after)

    def _before_promotion(self, found: Look) -> str:
        """The champion before the one that the last change promoted."""
        entries = self._ledger.entries()
        last = entries[-1] if entries else None
        if last is None or last["change"] != "promote" or last["to"]["champion"] != found.champion:
            raise LookupError(
                "rollout: nothing is rolled out, and the last change was no promotion; to put an earlier version back, name it: "
                "fraud rollout rollback VERSION"
            )
        return str(last["from"]["champion"])

    def _write(
        self,
        change: str,
        found: Look,
        before: Rollout,
        after: Rollout,
        champion: str | None = None,
        evidence: Mapping[str, Any] | None = None,
        why: str = "",
    ) -> Change:
        now = self._clock().astimezone(UTC).isoformat()
        revision = before.revision + 1
        document = replace(
            after,
            id=f"{revision:04d}-{token_hex(4)}",
            revision=revision,
            seed=before.seed or token_hex(16),
            who=self._who,
            since=now,
        )
        self._registry.write(document)
        entry = {
            "id": document.id,
            "at": now,
            "who": self._who,
            "change": change,
            "rollout": document.id,
            "from": {"champion": found.champion, **_described(before)},
            "to": {"champion": champion or found.champion, **_described(document)},
            "why": why,
            "evidence": dict(evidence or {}),
        }
        self._ledger.append(entry)
        if self._registry.look().text != document.as_text():
            raise ValueError(
                f"rollout: {change} was overtaken by another change of that moment; see fraud rollout status, then decide again"
            )
        return Change(entry)

    def _look(self) -> Look:
        """The registry, and into the ledger what it says of an end or of another champion that came about elsewhere."""
        try:
            found = self._registry.look()
        except Exception as error:  # MLflow's client raises anything, and its errors share no base with ours
            where = settings().tracking_uri
            raise ConnectionError(
                f"model registry {where}: it does not answer: {error}; start it, or see MLFLOW_TRACKING_URI"
            ) from error
        rollout, unreadable = _readable(found)
        if found.ended is not None and unreadable is None:
            self._ledger.append(ended_line(rollout.id, found.ended))
        entries = self._ledger.entries()
        known = entries[-1]["to"]["champion"] if entries else None
        if known != found.champion and entries:
            # By hand in MLflow, or from another machine.
            note_champion(
                "outside", known, found.champion, why="found so", clock=self._clock, ledger=self._ledger
            )
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One change at a time on this machine."""
        folder = make_private(settings().home / "rollout")
        with (folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _champion(found: Look) -> str:
    if found.champion is None:
        raise LookupError("registry: no version of the model is the champion; train one (fraud train)")
    return found.champion


def _in_force(found: Look) -> Rollout:
    rollout, unreadable = _readable(found)
    if unreadable is not None:
        raise ValueError(unreadable)
    return rollout


def _readable(found: Look) -> tuple[Rollout, str | None]:
    try:
        return found.rollout(), None
    except ValueError as error:
        return ALONE, str(error)


def _check_version(version: str, champion: str) -> None:
    if version == champion:
        raise ValueError(f"rollout: version {version} is the champion already; name another")


def _comparison(champion: str, challenger: str) -> tuple[Pairs, Comparison]:
    both = pairs(_journalled(settings().journal), champion, challenger)
    return both, compare(both, champion, challenger)


def _journalled(folder: Path) -> Iterator[dict[str, Any]]:
    """Decisions that were part of a rollout. Others are not decoded: a journal is long, and mostly the champion's alone."""
    for path in sorted(folder.glob("decisions-*.jsonl")):
        for _, line in read_lines(path):
            if b'"rollout"' in line:
                with suppress(ValueError):  # cut short by a crash: the parity audit reports it
                    yield json.loads(line)


def _described(rollout: Rollout) -> dict[str, Any]:
    names = ("mode", "challenger", "share", "explore", "explore_up_to_usd_cents")
    return {name: getattr(rollout, name) for name in names}


def _state(state: Mapping[str, Any]) -> str:
    text = f"champion {state['champion']}, {_NAMES[state['mode']]}"
    if state["challenger"] is not None:
        text += f", challenger {state['challenger']}"
    if state["share"]:
        text += f" decides for {state['share'] * 100:g}% of the customers"
    if state.get("explore"):
        text += f"; {state['explore'] * 100:g}% of the declines approved to learn their labels"
        limit = state.get("explore_up_to_usd_cents")
        text += f", up to {limit / 100:,.2f} USD" if limit else ""
    return text


def _line(entry: Mapping[str, Any]) -> str:
    why = f": {entry['why']}" if entry.get("why") else ""
    return f"{entry['at']} {entry['who']} {entry['change']}, {_state(entry['to'])}{why}"


def _compared(found: Mapping[str, Any]) -> list[str]:
    if not found["asked"]:
        return ["no transaction in this journal was scored by both models yet"]
    lines = [f"asked {found['asked']:,} times, failed {found['failed']:,}, p99 {found['p99_ms']:.1f} ms"]
    if found["scored"]:
        lines += [
            f"scored by both: {found['scored']:,}; they decide alike on {found['agreement']:.1%}",
            f"declined: champion {found['champion_decline_rate']:.2%}, challenger {found['challenger_decline_rate']:.2%}; "
            f"reviewed: {found['champion_review_rate']:.2%}, {found['challenger_review_rate']:.2%}",
            f"score: mean {found['champion_mean_score']:.4f} and {found['challenger_mean_score']:.4f}, "
            f"PSI {found['score_psi']:.3f} ({found['band']})",
        ]
    return lines
