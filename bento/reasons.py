"""Why a transaction was declined or sent for review: codes of ``feature_repo/decision_reasons.csv``, the weightiest first.

With a model they come from what each feature added to the score (``Bundle.contributions``), added up by reason. It takes some
tens of microseconds, and is asked for where a decision is no approval, or a person asks later.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo.decision_reasons import REASONS, reason_of_feature
from training.bundle import Bundle

__all__ = [
    "MOST_REASONS",
    "Reason",
    "codes_of",
    "explain",
    "explain_rules",
    "reasons_of",
    "reasons_of_record",
]

MOST_REASONS = 4
"""So many are given at most, as customers are told."""

# What weighs less than this share of the weightiest reason is none.
_LEAST_SHARE = 0.1
_MOST_FEATURES = 3

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason of a decision.

    Attributes:
        direction: raises, lowers (the score), or rule.
        contribution: log-odds that it adds to the calibrated score; None of rules.
        features: up to three that weigh most in it.
    """

    code: str
    direction: str
    sentence: str
    contribution: float | None = None
    features: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)


class _Explainer:
    """Which reason each feature of a bundle belongs to, and how its policy takes an ordinary risk."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle, self._names = bundle, bundle.feature_names
        self._contributions = bundle.contributions
        self._slope = bundle.spec.calibration.slope
        base = np.array([self._contributions.base])
        self._ordinary = float(bundle.spec.calibration.probability(base)[0])
        self._codes: dict[str, list[str]] = {}
        self._groups: dict[str, npt.NDArray[np.int64]] = {}
        for direction in ("raises", "lowers"):
            codes = [reason_of_feature(name, direction).code for name in self._names]
            self._codes[direction] = list(dict.fromkeys(codes))
            places = {code: place for place, code in enumerate(self._codes[direction])}
            self._groups[direction] = np.array([places[code] for code in codes])

    def reasons(self, row: FloatArray, decision: str, amount_usd_cents: int) -> list[Reason]:
        """Of an approval what speaks against fraud, else what speaks for it."""
        sign, direction = (-1.0, "lowers") if decision == "approve" else (1.0, "raises")
        moved = self._slope * self._contributions.of_row(row)
        sums: FloatArray = np.bincount(self._groups[direction], weights=moved)  # type: ignore[assignment]
        found = [self._reason(direction, place, moved, sums) for place in _weightiest(sign * sums)]
        if decision != "approve" and self._bundle.decide(self._ordinary, amount_usd_cents) != "approve":
            found.insert(0, _rule("AMOUNT_AT_STAKE"))
        return found[:MOST_REASONS]

    def _reason(self, direction: str, place: int, moved: FloatArray, sums: FloatArray) -> Reason:
        sign = -1.0 if direction == "lowers" else 1.0
        members = np.flatnonzero(self._groups[direction] == place)
        ranked = members[_weightiest(sign * moved[members])][:_MOST_FEATURES]
        code = self._codes[direction][place]
        features = tuple(self._names[i] for i in ranked)
        return Reason(code, direction, REASONS[code].sentence, float(sums[place]), features)


def _weightiest(weights: FloatArray) -> list[int]:
    """Places of the weights that count, the largest first."""
    order = np.argsort(-weights, kind="stable").tolist()
    least = max(0.0, _LEAST_SHARE * float(weights[order[0]]))
    return [place for place in order[:MOST_REASONS] if weights[place] > least]


@lru_cache(maxsize=8)
def _explainer(bundle: Bundle) -> _Explainer:
    return _Explainer(bundle)


def _rule(code: str) -> Reason:
    reason = REASONS[code]
    return Reason(reason.code, reason.direction, reason.sentence)


def explain(bundle: Bundle, row: FloatArray, decision: str, amount_usd_cents: int) -> list[Reason]:
    """Why the model led to ``decision``.

    Args:
        row: float64[features] in the order of the bundle's ``feature_names``, null as NaN.
    """
    return _explainer(bundle).reasons(row, decision, amount_usd_cents)


def explain_rules(bundle: Bundle | None, row: Mapping[str, Any], decision: str) -> list[Reason]:
    """Why it was decided so without the model; of an approval there is nothing to say.

    Args:
        bundle: the one whose rules decided, None: none served. row: as for ``Bundle.decide_without_model``.
    """
    if decision == "approve":
        return []
    if bundle is None:
        return [_rule("NO_MODEL")]
    rule = bundle.rule_without_model(row)
    return [_rule("RULE_NONE" if rule is None else reason_of_feature(rule.feature, "rule").code)]


def codes_of(reasons: list[Reason]) -> list[str]:
    """Their codes, as they are answered and journalled."""
    return [reason.code for reason in reasons]


def reasons_of(
    bundle: Bundle, features: Mapping[str, float | None], decision: str, amount_usd_cents: int
) -> list[Reason]:
    """Why a journalled decision was taken, from the features that it saw and the model that it was taken with.

    Args:
        features: by name, null as None; all that the bundle reads.

    Raises:
        KeyError: a feature is missing: the decision was taken with another model.
    """
    values = [features[name] for name in bundle.feature_names]
    row = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return explain(bundle, row, decision, amount_usd_cents)


def reasons_of_record(bundle: Bundle | None, record: Mapping[str, Any]) -> list[Reason]:
    """Why a journalled decision was taken, with or without a model.

    Args:
        bundle: of the version that the record names; None where it names none.
        record: as it stands in the journal.
    """
    amount = record["request"]["amount_usd_cents"]
    if bundle is not None and record["score"] is not None:
        return reasons_of(bundle, record["features"], record["decision"], amount)
    row = {"amount_usd_cents": amount, "event_timestamp_us": record["event_timestamp_us"]}
    return explain_rules(bundle, row, record["decision"])
