"""How long a request may wait for its turn, from the gate to the moment at which work on it begins."""

from collections.abc import Callable
from dataclasses import dataclass

from bento.problem import Problem

__all__ = ["DEADLINE", "Deadline"]

DEADLINE = "fraud.deadline"
"""Under this key the gate puts a request's deadline into its ASGI scope."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a request arrived, by ``monotonic``, and how many seconds it may wait."""

    arrived: float
    allowed_s: float
    monotonic: Callable[[], float]

    def passed(self) -> Problem | None:
        """What to answer if it has waited longer; None if not."""
        waited_s = self.monotonic() - self.arrived
        if waited_s <= self.allowed_s:
            return None
        return Problem(
            "deadline-passed",
            f"nothing was done: it waited {waited_s * 1000:.0f} ms, and {self.allowed_s * 1000:.0f} ms are allowed; "
            "send it again in a moment",
        )
