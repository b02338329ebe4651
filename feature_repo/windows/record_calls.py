"""Calls of ``record.lua``: events of one source, each record once for all the views that keep it, packed for the wire."""

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from feature_repo.windows.event_values import Computed, Taken, Values
from feature_repo.windows.keys import key_part
from feature_repo.windows.packing import Event, Packer
from feature_repo.windows.scalars import to_microseconds
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.wire import bulk

__all__ = ["Alike", "Call", "Calls"]

# Events that one call of the script writes: a call of its own each would cost as much as what it does. Nobody else is served
# meanwhile, so they are few.
_TOGETHER = 20
# What ``record.lua`` is told of a run of events: whether its clock says when they became known, how many records each of them
# has, and how many they are; then, of each state that they go to, the number of its view, and which of the records it gets.
_RUN = struct.Struct("<BHI")
_PLACE = struct.Struct("<HH")
# Sets of views that events go to, of which what the script is told is kept at hand.
_SHAPES = 1024


Keys = Sequence[bytes | None]
"""Of each event an entity or a state, None: nothing goes there."""
Records = list[bytes]


class Alike:
    """Views that name an event's id and time, and compute columns, alike.

    Args:
        prefixes: what the state keys of each start with. computed: what they compute of an event.

    Attributes:
        lists: for each view which of the lists of records that ``packed`` gives is its own; count: how many there are.
    """

    def __init__(self, specs: Sequence[ViewSpec], prefixes: Sequence[bytes], computed: Computed) -> None:
        self._computed, self._packer = computed, Packer(specs)
        # A view that hides older versions of what does not pass its filter has records of its own, which say so.
        voiding = [i for i, spec in enumerate(specs) if spec.corrected and spec.predicate is not None]
        own = {i: self._packer.count + place for place, i in enumerate(voiding)}
        self.lists = [own.get(i, layout) for i, layout in enumerate(self._packer.layouts)]
        self.count = self._packer.count + len(voiding)
        self._views = list(zip(specs, self._packer.layouts, map(_Frames, prefixes), strict=True))
        # The entities that all events must have; a view with a filter needs those alone of what passes it.
        needed = [spec.keys for spec in specs if spec.predicate is None or spec.corrected]
        self._names = list(dict.fromkeys(chain.from_iterable(needed)))
        self._several = [names for names in dict.fromkeys(needed) if len(names) > 1]

    def times(self, events: Sequence[Event]) -> list[int]:
        """As ``Packer.times``."""
        return self._packer.times(events)

    def packed(
        self,
        given: Sequence[Event],
        values: Sequence[Values],
        taken: Sequence[Taken],
        times: Sequence[int],
        known: Sequence[int | None],
    ) -> tuple[list[Keys], list[Records]]:
        """For each view the states that events go to, and the lists of records, as parts of a command.

        Args:
            times, known: microseconds; not known: now, by the server's clock.

        Raises:
            KeyError, TypeError, ValueError: as ``Computed.complete``, ``Packer.pack`` and the views' filters.
        """
        events = self._computed.completed(given, values, taken)
        records = self._packer.pack(events, times, known)
        entities: dict[tuple[str, ...], Keys] = {}
        for name in self._names:
            entities[name,] = [_part(event[name]) for event in events]
        for names in self._several:
            entities[names] = _joined([entities[name,] for name in names])
        keys: list[Keys] = []
        for spec, layout, frames in self._views:
            found = entities.get(spec.keys, ())
            if spec.predicate is not None:
                passes = list(map(spec.predicate, events))
                if spec.corrected:
                    records.append(self._voided(records[layout], passes, layout, events, times, known))
                else:
                    found = [
                        _entity(e, spec.keys) if counts else None
                        for e, counts in zip(events, passes, strict=True)
                    ]
            keys.append([None if each is None else frames[len(each)] + each + b"\r\n" for each in found])
        return keys, [[_FRAMES[len(each)] + each + b"\r\n" for each in own] for own in records]

    def _voided(
        self,
        records: Records,
        passes: Sequence[bool],
        layout: int,
        events: Sequence[Event],
        times: Sequence[int],
        known: Sequence[int | None],
    ) -> Records:
        """The records, void where the event does not pass the filter."""
        failing = [i for i, counts in enumerate(passes) if not counts]
        given, at = [events[i] for i in failing], [times[i] for i in failing]
        void = iter(self._packer.pack(given, at, [known[i] for i in failing], void=True)[layout])
        return [record if counts else next(void) for record, counts in zip(records, passes, strict=True)]


class _Frames(dict[int, bytes]):
    """What a part of a command starts with that has this prefix, by the length of what follows."""

    def __init__(self, prefix: bytes = b"") -> None:
        super().__init__()
        self._prefix = prefix

    def __missing__(self, length: int) -> bytes:
        start = self[length] = b"$%d\r\n%b" % (len(self._prefix) + length, self._prefix)
        return start


_FRAMES = _Frames()


def _part(value: object) -> bytes | None:
    return None if value is None else key_part(value)


def _joined(parts: Sequence[Keys]) -> Keys:
    """Entities of what their values add in each column."""
    return [None if None in each else b"".join(each) for each in zip(*parts, strict=True)]


def _entity(event: Event, names: Sequence[str]) -> bytes | None:
    return _joined([[_part(event[name])] for name in names])[0]


class Call:
    """What some events give one call of ``record.lua`` to do.

    Attributes:
        known: when each became known, None: now. keys: the states they go to, packed; views: the number of the view of each.
        arguments: packed, several in a piece; count: how many there are of these.
    """

    __slots__ = ("arguments", "count", "keys", "known", "views")

    def __init__(self, known: Sequence[int | None]) -> None:
        self.known = known
        self.keys: list[bytes] = []
        self.views: list[int] = []
        self.arguments: list[bytes] = []
        self.count = 0

    def add(self, shape: "_Shape", keys: Sequence[Keys], records: Sequence[Records], events: slice) -> None:
        """A run of events: keys of every view, all lists of records, and where in them the events stand."""
        n = events.stop - events.start
        several = [keys[view][events] for view in shape.views]
        own = [records[place][events] for place in shape.lists]
        self.arguments.append(bulk(_RUN.pack(shape.clock, len(own), n) + shape.places))
        self.arguments += chain.from_iterable(zip(*own, strict=True))
        self.keys += chain.from_iterable(zip(*several, strict=True))
        self.views += shape.views * n
        self.count += 1 + len(own) * n

    def state(self, place: int) -> tuple[int, bytes]:
        """View and key of a state."""
        key = self.keys[place]
        return self.views[place], key[key.index(b"\n") + 1 : -2]


class _Shape(NamedTuple):
    """What events have in common that go to the same views.

    Attributes:
        clock: whether they became known by the server's clock. views: their numbers. lists: which lists of records they need.
        places: what the script is told of the states.
    """

    clock: bool
    views: tuple[int, ...]
    lists: tuple[int, ...]
    places: bytes


def _runs(shapes: Sequence[_Shape]) -> Iterator[tuple[int, int]]:
    """From where to where they are the same."""
    start = 0
    while start < len(shapes):
        end = start + 1
        while end < len(shapes) and shapes[end] is shapes[start]:
            end += 1
        yield start, end
        start = end


class Calls:
    """Makes the calls that write events of one source into views, numbered in the order of the groups.

    Args:
        timestamp, created: the source's columns; without known times events are known as they happen.
    """

    def __init__(self, groups: Sequence[Alike], timestamp: str, created: str) -> None:
        self._groups, self._timestamp, self._created = groups, timestamp, created
        self._lists: list[int] = []
        before = 0
        for each in groups:
            self._lists += [before + own for own in each.lists]
            before += each.count
        everywhere = tuple(range(len(self._lists)))
        self._shape = lru_cache(_SHAPES)(self._shape_of)
        self._whole = self._shape_of(False, everywhere), self._shape_of(True, everywhere)

    def of(self, events: Sequence[Event], values: Sequence[Values], taken: Sequence[Taken]) -> list[Call]:
        """The calls that write events, in order; arguments and errors as ``Alike.packed``."""
        keys: list[Keys] = []
        records: list[Records] = []
        known: list[int | None] = []
        for each in self._groups:
            times = each.times(events)
            known = known or self._known(events, times)
            states, lists = each.packed(events, values, taken, times, known)
            keys += states
            records += lists
        shapes = self._shapes(keys, known)
        calls = []
        for first in range(0, len(shapes), _TOGETHER):
            some = slice(first, first + _TOGETHER)
            call = Call(known[some])
            for start, end in _runs(shapes[some]):
                call.add(shapes[first + start], keys, records, slice(first + start, first + end))
            calls.append(call)
        return calls

    def _known(self, events: Sequence[Event], times: Sequence[int]) -> list[int | None]:
        """When events became known, microseconds; None: now."""
        if not self._created:
            return list(times)
        name, timestamp = self._created, self._timestamp
        return [
            None
            if (created := event.get(name)) is None
            else time
            if created == event[timestamp]
            else to_microseconds(created)
            for event, time in zip(events, times, strict=True)
        ]

    def _shapes(self, keys: Sequence[Keys], known: Sequence[int | None]) -> list[_Shape]:
        """The shape of each event."""
        if None not in chain.from_iterable(keys):
            timed, clock = self._whole
            return [clock if time is None else timed for time in known]
        views = [
            tuple(view for view, key in enumerate(own) if key is not None) for own in zip(*keys, strict=True)
        ]
        return [self._shape(time is None, own) for time, own in zip(known, views, strict=True)]

    def _shape_of(self, clock: bool, views: tuple[int, ...]) -> _Shape:
        lists = tuple(dict.fromkeys(self._lists[view] for view in views))
        places = (_PLACE.pack(view, lists.index(self._lists[view])) for view in views)
        return _Shape(clock, views, lists, b"".join(places))
