"""What to do with a probability: the action of least expected cost. A policy is data, saved with the model.

For a transaction of amount a with fraud probability p, in cents:

======== =================================================================================================
approve  ``p * a``: the fraud is lost
review   ``review_cost_cents``: a person looks, and is taken to decide rightly
decline  ``(1 - p) * (false_decline_cents + false_decline_share * a)``: a genuine customer is turned away
======== =================================================================================================

So a transaction is reviewed from ``p * a >= review_cost_cents`` on, unless declining is cheaper still, which
it is where fraud is near certain.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["DECISIONS", "Costs", "Decision", "Policy", "cost_report", "costs_cents"]

Decision = Literal["approve", "review", "decline"]
DECISIONS: Final[tuple[Decision, ...]] = ("approve", "review", "decline")

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Policy:
    """The costs of acting, in US cents; ``false_decline_share`` is a share of the amount.

    ``default`` is what is decided where neither a model nor rules can: review or decline. Nothing passes for want of a look.

    The defaults: a review takes an analyst some minutes; a genuine customer who is declined costs the margin
    on the sale and, at times, the customer.
    """

    review_cost_cents: float = 300.0
    false_decline_cents: float = 2000.0
    false_decline_share: float = 0.02
    default: Decision = "review"

    def __post_init__(self) -> None:
        if self.default not in ("review", "decline"):
            raise ValueError(
                f"policy: default is {self.default!r}: it is what happens to a transaction that nothing could judge; "
                "give review or decline"
            )
        for name, value in self.as_dict().items():
            if name == "default":
                continue
            if not 0 <= value < float("inf"):
                raise ValueError(f"policy: {name} is {value}; give a finite number of zero or more")

    def decide(self, score: float, amount_usd_cents: int) -> Decision:
        """The cheapest action; of equally cheap ones the review, else the decline.

        Raises:
            ValueError: ``score`` is no probability.
        """
        if not 0.0 <= score <= 1.0:
            raise ValueError(f"policy: score {score} is no probability; use Bundle.score")
        approve = score * amount_usd_cents
        decline = (1.0 - score) * (self.false_decline_cents + self.false_decline_share * amount_usd_cents)
        if min(approve, decline) < self.review_cost_cents:
            return "approve" if approve < decline else "decline"
        return "review"

    def decide_many(self, scores: FloatArray, amounts_usd_cents: IntArray) -> npt.NDArray[np.int8]:
        """``decide`` for each row, as positions in ``DECISIONS``."""
        approve = scores * amounts_usd_cents
        decline = (1.0 - scores) * (self.false_decline_cents + self.false_decline_share * amounts_usd_cents)
        cheap = np.where(approve < decline, 0, 2)
        return np.where(np.minimum(approve, decline) < self.review_cost_cents, cheap, 1).astype(np.int8)

    def as_dict(self) -> dict[str, Any]:
        """The policy as JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Policy":
        """The inverse of ``as_dict``."""
        return cls(**data)


@dataclass(frozen=True)
class Costs:
    """What decisions cost on rows whose labels are known, in dollars; ``none`` is the cost of approving
    everything.
    """

    total_usd: float
    none_usd: float
    saved_share: float
    approve: int
    review: int
    decline: int
    frauds_approved: int
    genuine_declined: int


def costs_cents(
    policy: Policy, decisions: npt.NDArray[np.int8], labels: npt.NDArray[np.int8], amounts_usd_cents: IntArray
) -> FloatArray:
    """What each decision cost once the label is known, in cents."""
    lost = np.where(labels == 1, amounts_usd_cents, 0).astype(np.float64)
    turned_away = policy.false_decline_cents + policy.false_decline_share * amounts_usd_cents
    declined = np.where(labels == 1, 0.0, turned_away)
    return np.choose(decisions, [lost, np.full(len(labels), policy.review_cost_cents), declined])


def cost_report(
    policy: Policy, scores: FloatArray, labels: npt.NDArray[np.int8], amounts_usd_cents: IntArray
) -> Costs:
    """Decide every row by ``policy`` and count what it cost."""
    decisions = policy.decide_many(scores, amounts_usd_cents)
    total = float(costs_cents(policy, decisions, labels, amounts_usd_cents).sum()) / 100
    none = float(amounts_usd_cents[labels == 1].sum()) / 100
    counts = np.bincount(decisions, minlength=3)
    return Costs(
        total_usd=total,
        none_usd=none,
        saved_share=1 - total / none if none else 0.0,
        approve=int(counts[0]),
        review=int(counts[1]),
        decline=int(counts[2]),
        frauds_approved=int(((decisions == 0) & (labels == 1)).sum()),
        genuine_declined=int(((decisions == 2) & (labels == 0)).sum()),
    )
