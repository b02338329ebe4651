"""Champion and challenger on the same transactions, as the journal has them: what a promotion rests on.

Only transactions on which both were asked are compared: all of them in shadow, those of the challenger's customers in a canary.
By arm, what was acted upon is counted too, whoever was asked.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from training.stability import Band, bin_counts, shift

__all__ = ["Arm", "Comparison", "Pairs", "compare", "pairs"]

Record = Mapping[str, Any]
Floats = npt.NDArray[np.float64]
# Deciles of the champion's scores.
_DECILES = np.arange(0.1, 1.0, 0.1)


@dataclass(frozen=True)
class Pairs:
    """Transactions that both models scored, in the order of the journal; all lists and arrays have one length.

    Attributes:
        champion, challenger: scores. champion_decisions, challenger_decisions: what each would have decided.
        asked, failed: how many times the challenger was asked, and did not answer.
        latency_us: of all those.
        arms: decisions given, by arm.
    """

    transaction_id: list[str]
    customer_id: list[str]
    event_timestamp_us: npt.NDArray[np.int64]
    amounts_usd_cents: npt.NDArray[np.int64]
    champion: Floats
    challenger: Floats
    champion_decisions: list[str]
    challenger_decisions: list[str]
    asked: int = 0
    failed: int = 0
    latency_us: list[float] = field(default_factory=list)
    arms: Mapping[str, Counter[str]] = field(default_factory=dict)
    explored: int = 0

    def __len__(self) -> int:
        return len(self.transaction_id)


@dataclass(frozen=True)
class Arm:
    """What was decided for the customers of one arm."""

    decisions: int
    declined: float
    reviewed: float


@dataclass(frozen=True)
class Comparison:
    """What the pairs say; shares and rates are None without any.

    Attributes:
        asked, failed: how often the challenger was asked, and did not answer.
        scored: by both. agreement: share of them on which both decide alike.
        score_psi: of the challenger's scores against the champion's, in the champion's deciles; ``band`` is what remains when
            chance has had its part.
        explored: declines that were approved to learn their labels.
    """

    champion: str
    challenger: str
    asked: int
    failed: int
    scored: int
    agreement: float | None
    champion_decline_rate: float | None
    challenger_decline_rate: float | None
    champion_review_rate: float | None
    challenger_review_rate: float | None
    champion_mean_score: float | None
    challenger_mean_score: float | None
    score_psi: float | None
    band: Band | None
    p99_ms: float | None
    arms: dict[str, Arm]
    explored: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)


def pairs(records: Iterable[Record], champion: str, challenger: str) -> Pairs:
    """The transactions of these two versions among journalled decisions."""
    both: list[tuple[Record, Record, Record]] = []
    asked, failed, explored, latency = 0, 0, 0, []
    arms = {"champion": Counter[str](), "challenger": Counter[str]()}
    versions = {champion, challenger}
    for record in records:
        rollout, beside = record.get("rollout"), record.get("beside")
        if rollout is None or record["model_version"] not in versions:
            continue
        if beside is None:
            if rollout["mode"] != "shadow":
                arms["champion"][record["decision"]] += 1
            continue
        if {record["model_version"], beside["model_version"]} != versions:
            continue
        asked += 1
        latency.append(float(record["latency_us"]))
        arms[rollout["arm"]][record["decision"]] += 1
        explored += bool(record.get("exploration", {}).get("approved"))
        own = {"score": record["score"], "decision": record.get("exploration", record)["decision"]}
        first, second = (own, beside) if record["model_version"] == champion else (beside, own)
        failed += second["score"] is None
        if first["score"] is not None and second["score"] is not None:
            both.append((record, first, second))
    return Pairs(
        transaction_id=[record["transaction_id"] for record, _, _ in both],
        customer_id=[record["customer_id"] for record, _, _ in both],
        event_timestamp_us=np.array([record["event_timestamp_us"] for record, _, _ in both], np.int64),
        amounts_usd_cents=np.array([r["request"]["amount_usd_cents"] for r, _, _ in both], np.int64),
        champion=np.array([first["score"] for _, first, _ in both], np.float64),
        challenger=np.array([second["score"] for _, _, second in both], np.float64),
        champion_decisions=[first["decision"] for _, first, _ in both],
        challenger_decisions=[second["decision"] for _, _, second in both],
        asked=asked,
        failed=failed,
        latency_us=latency,
        arms=arms,
        explored=explored,
    )


def compare(found: Pairs, champion: str, challenger: str) -> Comparison:
    """What the pairs of two versions say; none of them is no error."""
    decided = list(zip(found.champion_decisions, found.challenger_decisions, strict=True))
    drift = _drift(found)
    return Comparison(
        champion=champion,
        challenger=challenger,
        asked=found.asked,
        failed=found.failed,
        scored=len(found),
        agreement=_share(mine == its for mine, its in decided),
        champion_decline_rate=_share(mine == "decline" for mine, _ in decided),
        challenger_decline_rate=_share(its == "decline" for _, its in decided),
        champion_review_rate=_share(mine == "review" for mine, _ in decided),
        challenger_review_rate=_share(its == "review" for _, its in decided),
        champion_mean_score=float(found.champion.mean()) if decided else None,
        challenger_mean_score=float(found.challenger.mean()) if decided else None,
        score_psi=None if drift is None else drift[0],
        band=None if drift is None else drift[1],
        p99_ms=float(np.quantile(found.latency_us, 0.99)) / 1000 if found.latency_us else None,
        arms={name: _arm(counts) for name, counts in found.arms.items() if counts},
        explored=found.explored,
    )


def _drift(found: Pairs) -> tuple[float, Band] | None:
    if not len(found):
        return None
    edges = np.unique(np.quantile(found.champion, _DECILES))
    moved = shift(bin_counts(edges, found.champion), bin_counts(edges, found.challenger))
    return moved.psi, moved.band


def _arm(counts: Counter[str]) -> Arm:
    total = counts.total()
    return Arm(total, counts["decline"] / total, counts["review"] / total)


def _share(hits: Iterable[bool]) -> float | None:
    found = list(hits)
    return sum(found) / len(found) if found else None
