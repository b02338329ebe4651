"""Instants as people write them on the command line."""

from datetime import UTC, datetime

__all__ = ["parse_instant"]


def parse_instant(text: str) -> datetime:
    """A UTC day (its first instant), or an instant with its zone, as ISO 8601.

    Raises:
        ValueError: ``text`` is neither, or a time of day has no zone.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"time {text!r}: {error}; give a day such as 2025-03-01, or an instant") from error
    if instant.tzinfo is None and len(text) > len("2025-03-01"):
        raise ValueError(f"time {text!r}: it has no zone; add Z for UTC")
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)
