"""Events packed into records as they happen, column by column: of many that come together each costs little more than its bytes.

Most come alone, so that none of it may cost a single event much either.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from operator import add, itemgetter
from typing import Any

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
from feature_repo.windows.scalars import event_number_bytes, number, to_microseconds, value_code
from feature_repo.windows.spec import StoredColumn, ViewSpec

Event = Mapping[str, Any]
_Column = Callable[[Sequence[Event]], list[bytes]]
_Layout = Callable[[list[bytes], Sequence[list[bytes]], list[bytes]], list[bytes]]

_NO_CODE = bytes(7)
_NULL = int(NULL)


def _pack_number(value: int) -> bytes:
    if value == _NULL:
        return b"\0"
    left = (value << 1 if value >= 0 else ~(value << 1)) + 1
    # Most numbers need no loop.
    if left < 1 << 7:
        return bytes((left,))
    if left < 1 << 14:
        return bytes((left & 127 | 128, left >> 7))
    if left < 1 << 21:
        return bytes((left & 127 | 128, left >> 7 & 127 | 128, left >> 14))
    packed = bytearray()
    while left > 127:
        packed.append(left & 127 | 128)
        left >>= 7
    packed.append(left)
    return bytes(packed)


# Typed, because 1 and True are one key to a cache, and not one text.
@lru_cache(maxsize=65_536, typed=True)
def _pack_code(value: Hashable) -> bytes:
    return _NO_CODE if value is None else value_code(value).to_bytes(7, "little")


def _packed_column(column: StoredColumn, condition: Predicate | None) -> _Column:
    """What packs one column of events."""
    name, scale = column.name, column.scale
    if condition is None:
        if column.kind == "number":
            return lambda events: [_pack_number(number(event[name], scale, name)) for event in events]
        return lambda events: [_pack_code(event[name]) for event in events]
    truth = condition.truth
    if column.kind == "number":
        return lambda events: [_pack_number(number(truth(event), scale, name)) for event in events]
    return lambda events: [_pack_code(truth(event)) for event in events]


def _layout(columns: Sequence[int]) -> _Layout:
    """What puts records together of what stands before the values, the packed columns, and what stands after."""
    if not columns:
        return lambda starts, values, ends: list(map(add, starts, ends))
    if len(columns) > 1:
        chosen = itemgetter(*columns)
        return lambda starts, values, ends: list(
            map(b"".join, zip(starts, *chosen(values), ends, strict=True))
        )
    (only,) = columns
    return lambda starts, values, ends: [
        a + b + c for a, b, c in zip(starts, values[only], ends, strict=True)
    ]


class Packer:
    """Packs events of one source, each column and each layout of columns once, whatever number of views keep it.

    Args:
        specs: views of one source with one event id and one event time.

    Attributes:
        layouts: of each view the number of its layout. count: how many layouts there are.
    """

    def __init__(self, specs: Sequence[ViewSpec]) -> None:
        self._event_id, self._timestamp = specs[0].event_id, specs[0].timestamp
        places: dict[tuple[StoredColumn, str], int] = {}
        layouts: dict[tuple[int, ...], int] = {}
        self._columns: list[_Column] = []
        self.layouts: list[int] = []
        for spec in specs:
            tests, texts = dict(spec.tests), dict(spec.conditions)
            for column in spec.columns:
                if (column, texts.get(column.name, "")) not in places:
                    places[column, texts.get(column.name, "")] = len(self._columns)
                    self._columns.append(_packed_column(column, tests.get(column.name)))
            layout = tuple(places[c, texts.get(c.name, "")] for c in spec.columns)
            self.layouts.append(layouts.setdefault(layout, len(layouts)))
        self._layouts = list(map(_layout, layouts))
        self.count = len(layouts)

    def times(self, events: Sequence[Event]) -> list[int]:
        """The events' times, microseconds.

        Raises:
            KeyError: one has none. ValueError: no time zone, or out of reach.
        """
        name = self._timestamp
        return [check_time("event time", to_microseconds(event[name])) for event in events]

    def pack(
        self,
        events: Sequence[Event],
        times: Sequence[int],
        known: Sequence[int | None],
        *,
        void: bool = False,
    ) -> list[list[bytes]]:
        """Of each layout the record of each event.

        Args:
            events: rows of the source, Python values. times: their ``times``.
            known: known times in microseconds; None leaves it to the server's clock.
            void: the events do not pass the filter; their records hide older versions of them.

        Raises:
            KeyError: a column is missing. TypeError, ValueError: a value that the windows cannot hold exactly.
        """
        name, starts, ends = self._event_id, [], []
        for event, time, at in zip(events, times, known, strict=True):
            flag, end = (AT_ONCE, b"") if at == time and not void else _known_part(time, at, void)
            start = ((time & TIME_MASK) | flag << FLAG_SHIFT).to_bytes(7, "little")
            starts.append(start + event_number_bytes(event[name]))
            ends.append(end)
        columns = [pack(events) for pack in self._columns]
        return [layout(starts, columns, ends) for layout in self._layouts]


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
    ((record,),) = packer.pack([event], packer.times([event]), [known_us])
    return record
