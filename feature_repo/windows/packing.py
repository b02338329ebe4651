"""Events packed into records one by one, as they happen: Python, for an event is little and comes alone."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from feature_repo.windows.kernel import NULL
from feature_repo.windows.predicate import Predicate
from feature_repo.windows.records import (
    AT_ONCE,
    FLAG_SHIFT,
    LATER,
    SOON,
    SOON_REACH,
    TIME_MASK,
    VOID,
    check_time,
)
from feature_repo.windows.scalars import event_number, number, to_microseconds, value_code
from feature_repo.windows.spec import StoredColumn, ViewSpec

_NO_CODE = bytes(7)


def _pack_number(value: int | None) -> bytes:
    if value is None or value == NULL:
        return b"\0"
    left = (value << 1 if value >= 0 else ~(value << 1)) + 1
    packed = bytearray()
    while left > 127:
        packed.append(left & 127 | 128)
        left >>= 7
    packed.append(left)
    return bytes(packed)


@lru_cache(maxsize=65_536)
def _pack_code(value: Hashable, kind: str) -> bytes:
    # The kind is there because 1 and True are one key to a cache, and not one text.
    return value_code(value).to_bytes(7, "little")


def _packed_column(column: StoredColumn, condition: Predicate | None) -> Callable[[Mapping[str, Any]], bytes]:
    """What packs one column of an event."""
    name, scale = column.name, column.scale

    def value_of(event: Mapping[str, Any]) -> Any:
        return event[name] if condition is None else condition.truth(event)

    if column.kind == "number":
        return lambda event: _pack_number(number(value_of(event), scale, name))

    def pack(event: Mapping[str, Any]) -> bytes:
        value = value_of(event)
        packed: bytes = _NO_CODE if value is None else _pack_code(value, str(type(value)))
        return packed

    return pack


class Packed(NamedTuple):
    """An event, packed: ``values`` of each view; ``start`` and ``end`` are of the records of all of them."""

    time: int
    known_us: int | None
    number: bytes
    values: list[bytes]
    start: bytes
    end: bytes

    def record(self, view: int, *, void: bool = False) -> bytes:
        """The record of one view; ``void``: the event does not pass the filter, and hides older versions of it."""
        if not void:
            return self.start + self.values[view] + self.end
        start, end = _around(self.time, self.known_us, self.number, void=True)
        return start + self.values[view] + end


class Packer:
    """Packs events of one source, each column once an event, whatever number of views keep it.

    Args:
        specs: views of one source with one event id and one event time.
    """

    def __init__(self, specs: Sequence[ViewSpec]) -> None:
        self._event_id, self._timestamp = specs[0].event_id, specs[0].timestamp
        places: dict[tuple[StoredColumn, str], int] = {}
        self._columns: list[Callable[[Mapping[str, Any]], bytes]] = []
        self._layouts: list[list[int]] = []
        for spec in specs:
            tests, texts = dict(spec.tests), dict(spec.conditions)
            for column in spec.columns:
                if (column, texts.get(column.name, "")) not in places:
                    places[column, texts.get(column.name, "")] = len(self._columns)
                    self._columns.append(_packed_column(column, tests.get(column.name)))
            self._layouts.append([places[c, texts.get(c.name, "")] for c in spec.columns])

    def time(self, event: Mapping[str, Any]) -> int:
        """The event's time, microseconds.

        Raises:
            KeyError: it has none. ValueError: no time zone, or out of reach.
        """
        return check_time("event time", to_microseconds(event[self._timestamp]))

    def pack(self, event: Mapping[str, Any], time: int, known_us: int | None) -> Packed:
        """One event, of which each view's record can be had.

        Args:
            event: a row of the source, Python values. time: its ``time``.
            known_us: known time in microseconds; None leaves it to the server's clock.

        Raises:
            KeyError: a column is missing. TypeError, ValueError: a value that the windows cannot hold exactly.
        """
        name = event_number(event[self._event_id]).to_bytes(6, "little")
        start, end = _around(time, known_us, name)
        values = [pack(event) for pack in self._columns]
        layouts = [b"".join([values[i] for i in layout]) for layout in self._layouts]
        return Packed(time, known_us, name, layouts, start, end)


def _around(time: int, known_us: int | None, number: bytes, *, void: bool = False) -> tuple[bytes, bytes]:
    """What stands before the values of a record, and after them."""
    flag, known = _known_part(time, known_us, void)
    return ((time & TIME_MASK) | flag << FLAG_SHIFT).to_bytes(7, "little") + number, known


def _known_part(time: int, known_us: int | None, void: bool) -> tuple[int, bytes]:
    if known_us is None:
        return (VOID if void else AT_ONCE), b""
    late = check_time("known time", known_us) - time
    if void:
        return VOID, late.to_bytes(7, "little", signed=True)
    if late == 0:
        return AT_ONCE, b""
    if -SOON_REACH <= late < SOON_REACH:
        return SOON, late.to_bytes(3, "little", signed=True)
    return LATER, late.to_bytes(7, "little", signed=True)


def pack_event(spec: ViewSpec, event: Mapping[str, Any], known_us: int) -> bytes:
    """One event as a record of the view's state.

    Raises:
        KeyError, TypeError, ValueError: as ``Packer.pack``.
    """
    packer = Packer([spec])
    return packer.pack(event, packer.time(event), known_us).record(0)
