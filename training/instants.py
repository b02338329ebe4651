"""Instants and durations as whole microseconds on UTC, checked where they enter."""

from datetime import UTC, datetime, timedelta

__all__ = ["duration_us", "from_us", "instant_us"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def instant_us(name: str, instant: datetime) -> int:
    """Microseconds since 1970 UTC, exact.

    Raises:
        ValueError: ``instant`` has no time zone.
    """
    if instant.tzinfo is None:
        raise ValueError(
            f"{name}: {instant.isoformat()} has no time zone, so it names no instant; add one, such as tzinfo=UTC"
        )
    return (instant - _EPOCH) // _MICROSECOND


def duration_us(name: str, duration: timedelta) -> int:
    """Whole microseconds of a duration that is not negative.

    Raises:
        ValueError: it is negative.
    """
    if duration < timedelta(0):
        raise ValueError(f"{name}: {duration} is negative; give zero or more")
    return duration // _MICROSECOND


def from_us(us: int) -> datetime:
    """The aware UTC datetime of microseconds since 1970."""
    return _EPOCH + us * _MICROSECOND
