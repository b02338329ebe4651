"""Changes of the champion that are no step of a rollout, such as a training's: a line in the ledger all the same."""

import getpass
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

from training.ledger import Ledger

__all__ = ["note_champion", "who_am_i"]


def note_champion(
    change: str,
    before: str | None,
    after: str | None,
    *,
    evidence: Mapping[str, Any] | None = None,
    why: str = "",
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ledger: Ledger | None = None,
) -> None:
    """Append that another version is the champion.

    Args:
        change: the verb that did it. before, after: versions; None for none.
    """
    beside = {"mode": "champion", "challenger": None, "share": 0.0}
    line = {
        "id": f"{change}:{token_hex(8)}",
        "at": clock().astimezone(UTC).isoformat(),
        "who": who_am_i(),
        "change": change,
        "rollout": None,
        "from": {"champion": before, **beside},
        "to": {"champion": after, **beside},
        "why": why,
        "evidence": dict(evidence or {}),
    }
    (ledger or Ledger()).append(line)


def who_am_i() -> str:
    """User and machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may have no such user
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
