"""Which model decides, and which is tried beside it: one small document, and the rules that read it.

========== ===================================================================================================
mode       what becomes of a transaction
========== ===================================================================================================
champion   the champion decides
shadow     the champion decides; the challenger scores too, for the journal alone
canary     the challenger decides for a share of the customers, the champion for the others
ab         likewise: the same rule under another name, for a comparison meant to last
========== ===================================================================================================

Customers are chosen by a hash: a customer stays where they are, in every process and after a restart, and the 5% are among
the 10%. Beside the mode, a small random share of would-be declines may be approved (``explore``), so that there are labels
that no model has selected; the draw is made from the transaction's id and the document's seed, so that a request sent again
draws the same, and nobody without the document can choose an id that is let through.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import blake2b
from typing import Any, Final, Literal, get_args

__all__ = ["ALONE", "MAX_EXPLORE", "SCHEMA", "Exploration", "Guards", "Mode", "Rollout", "position"]

SCHEMA: Final = 1
"""Of the document: a service leaves one of a later schema alone, and the champion decides."""

MAX_EXPLORE: Final = 0.1
"""The largest share of declines that may be let through: each costs its amount if it was right to decline."""

Mode = Literal["champion", "shadow", "canary", "ab"]


@dataclass(frozen=True)
class Guards:
    """What ends a rollout by itself; see ``bento.guards`` for what is measured.

    Attributes:
        max_error_rate: share of transactions on which the challenger may fail.
        max_p99_ms: of transactions in which the challenger takes part, for as long as they are worked on.
        max_score_psi: drift of the challenger's scores, beyond what chance and the champion's own drift explain.
        max_decline_ratio: declines of the challenger for each of the champion's on the same transactions.
        min_scored: before so many transactions nothing is judged but failures.
    """

    max_error_rate: float = 0.01
    max_p99_ms: float = 50.0
    max_score_psi: float = 0.25
    max_decline_ratio: float = 2.0
    min_scored: int = 200

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"rollout guards: {each.name} is {value!r}; give a number above 0")
        if self.max_error_rate > 1:
            raise ValueError(
                f"rollout guards: max_error_rate is {self.max_error_rate}; it is a share, 1 at most"
            )


@dataclass(frozen=True)
class Exploration:
    """One would-be decline's draw. It is approved if ``draw`` lies below ``probability``."""

    draw: float
    probability: float

    @property
    def approved(self) -> bool:
        """Whether it is let through."""
        return self.draw < self.probability


@dataclass(frozen=True)
class Rollout:
    """The document.

    Attributes:
        id: names this document; whatever is said of a rollout names it. revision: counts changes.
        challenger: its version; None in mode ``champion``.
        share: of the customers for whom the challenger decides; 0 but in ``canary`` and ``ab``.
        explore: share of would-be declines that are approved. explore_up_to_usd_cents: but none above this amount.
        seed: what draws are made from. who, since: of the change that made the document, ISO 8601 in UTC.
    """

    id: str = ""
    revision: int = 0
    mode: Mode = "champion"
    challenger: str | None = None
    share: float = 0.0
    explore: float = 0.0
    explore_up_to_usd_cents: int | None = None
    seed: str = ""
    guards: Guards = field(default_factory=Guards)
    who: str = ""
    since: str = ""

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(
                f"rollout: mode {self.mode!r} is not known; use one of {', '.join(get_args(Mode))}"
            )
        if (self.challenger is None) != (self.mode == "champion"):
            raise ValueError(
                f"rollout: mode {self.mode} with challenger {self.challenger}; name a version but in champion"
            )
        decides = self.mode in ("canary", "ab")
        if not (0 < self.share < 1 if decides else self.share == 0):
            wanted = "more than 0% and less than 100%" if decides else "0"
            raise ValueError(f"rollout: mode {self.mode} with a share of {self.share}; it must be {wanted}")
        if not 0 <= self.explore <= MAX_EXPLORE:
            raise ValueError(
                f"rollout: explore is {self.explore}; it is a share of the declines, 0 to {MAX_EXPLORE}"
            )
        limit = self.explore_up_to_usd_cents
        if limit is not None and limit <= 0:
            raise ValueError(f"rollout: explore_up_to_usd_cents is {limit}; give an amount above 0, or none")

    def decides(self, customer_id: str) -> bool:
        """Whether the challenger decides for this customer."""
        return self.share > 0 and position(f"{self.challenger}", customer_id) < self.share

    def draw(self, transaction_id: str, amount_usd_cents: int) -> Exploration:
        """The draw of a transaction that is to be declined."""
        limit = self.explore_up_to_usd_cents
        within = limit is None or amount_usd_cents <= limit
        return Exploration(position(self.seed, transaction_id), self.explore if within else 0.0)

    def ended(self) -> "Rollout":
        """The same without its challenger: the champion decides alone."""
        return replace(self, mode="champion", challenger=None, share=0.0)

    def as_text(self) -> str:
        """The document as JSON."""
        return json.dumps({"schema": SCHEMA, **asdict(self)})

    @classmethod
    def from_text(cls, text: str) -> "Rollout":
        """The inverse of ``as_text``.

        Raises:
            ValueError: it is no such document, or of another schema.
        """
        try:
            found = json.loads(text)
        except ValueError as error:
            raise ValueError(
                f"rollout: the document is no JSON ({error}); write it anew (fraud rollout rollback)"
            ) from None
        if not isinstance(found, dict) or found.get("schema") != SCHEMA:
            schema = found.get("schema") if isinstance(found, dict) else None
            raise ValueError(
                f"rollout: the document is of schema {schema!r}, this code reads {SCHEMA}; use the same version"
            )
        return cls._from(found)

    @classmethod
    def _from(cls, found: Mapping[str, Any]) -> "Rollout":
        names = {each.name for each in fields(cls)} - {"guards"}
        try:
            guards = Guards(**found.get("guards", {}))
            return cls(**{name: found[name] for name in names if name in found}, guards=guards)
        except TypeError as error:
            raise ValueError(
                f"rollout: the document is damaged ({error}); write it anew (fraud rollout rollback)"
            ) from None


ALONE: Final = Rollout()
"""The champion alone, as where nobody has ever rolled out anything."""


def position(salt: str, name: str) -> float:
    """Where a name lies in [0, 1) under this salt: evenly spread, the same everywhere and always."""
    digest = blake2b(name.encode(), digest_size=8, key=salt.encode()[:64]).digest()
    # 53 bits, which a float holds exactly: more would round some up to 1.
    return (int.from_bytes(digest) >> 11) / (1 << 53)
