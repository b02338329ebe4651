"""Lengths of time as people write them (``90m``, ``7d``), as ``timedelta``, and as integer microseconds.

``lifetime`` is the window that nothing leaves.

Windows are integer microseconds on UTC throughout: a day is always 86,400 s, whatever a calendar does in spring.
"""

import re
from datetime import timedelta

_UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
}
_FORM = re.compile(r"(\d+)([dhms])")
_MICROSECOND = timedelta(microseconds=1)
# A thousand years: longer than any history, and short enough that no edge of a window leaves 63 bits of microseconds.
LIFETIME = timedelta(days=365_000)


def parse_duration(text: str) -> timedelta:
    """A whole number and a unit, ``d``, ``h``, ``m`` or ``s``: ``7d`` is seven days. Or ``lifetime``.

    Raises:
        ValueError: ``text`` has another form.
    """
    if text.strip() == "lifetime":
        return LIFETIME
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"duration {text!r}: not a whole number with a unit; write 7d, 12h, 30m, 45s or lifetime"
        )
    return int(match[1]) * _UNITS[match[2]]


def format_duration(length: timedelta) -> str:
    """The shortest text that ``parse_duration`` reads back; it names windows in feature names.

    Raises:
        ValueError: ``length`` is not a whole number of seconds.
    """
    if length == LIFETIME:
        return "lifetime"
    for unit, size in _UNITS.items():
        if length % size == timedelta(0) and (length or unit == "s"):
            return f"{length // size}{unit}"
    raise ValueError(f"duration {length}: not a whole number of seconds; windows and delays are")


def microseconds(length: timedelta) -> int:
    """``length`` in whole microseconds."""
    return length // _MICROSECOND
