"""The table of what decisions are explained by: ``decision_reasons.csv``. A line a code; who adds a feature gives it a line."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Final

__all__ = ["DIRECTIONS", "REASONS", "DecisionReason", "reason_of_feature"]

DIRECTIONS: Final = ("raises", "lowers", "rule")
_FILE: Final = Path(__file__).with_name("decision_reasons.csv")


@dataclass(frozen=True)
class DecisionReason:
    """One code: what it is about, which way it speaks, and how a person is told.

    Attributes:
        direction: one of ``DIRECTIONS``. features: names or patterns (``fnmatch``); those of one reason are added up.
    """

    code: str
    direction: str
    features: tuple[str, ...]
    sentence: str


def _load(lines: Iterable[str]) -> dict[str, DecisionReason]:
    """Reasons by code, in the order of the file.

    Raises:
        ValueError: a code stands twice, a direction is unknown, or a sentence is missing.
    """
    reasons: dict[str, DecisionReason] = {}
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        code, direction, sentence = row["code"], row["direction"], row["sentence"]
        if code in reasons:
            raise ValueError(f"{_FILE.name}: code {code!r}: it stands twice; keep one line")
        if direction not in DIRECTIONS:
            raise ValueError(
                f"{_FILE.name}: code {code!r}: direction is {direction!r}; write {', '.join(DIRECTIONS)}"
            )
        if not sentence:
            raise ValueError(f"{_FILE.name}: code {code!r}: it has no sentence; say what it means")
        reasons[code] = DecisionReason(code, direction, tuple(row["features"].split()), sentence)
    return reasons


REASONS: Final = _load(_FILE.read_text(encoding="utf-8").splitlines())
"""Every reason by its code."""


@cache
def reason_of_feature(feature: str, direction: str) -> DecisionReason:
    """The first reason of this direction that names the feature; the last of each direction names all."""
    return next(
        reason
        for reason in REASONS.values()
        if reason.direction == direction and any(fnmatchcase(feature, name) for name in reason.features)
    )
