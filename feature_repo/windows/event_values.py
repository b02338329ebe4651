"""Columns that views compute of an event when it is recorded: conditions, and derived columns from the states as they are kept.

A derived column is read as of when the event was scored, or else as of its event time, and only what was known strictly before
that counts. So it comes out the same whenever it is computed, from the states or from history.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo.windows.columns import as_reals
from feature_repo.windows.derived import features, stored, used
from feature_repo.windows.evaluate import Integers
from feature_repo.windows.kernel import NULL
from feature_repo.windows.reading import StateReader, StateView
from feature_repo.windows.scalars import to_microseconds
from feature_repo.windows.spec import Derived, ViewSpec
from feature_repo.windows.state import windows_of_states
from feature_repo.windows.transform import reals

__all__ = ["NOTHING", "Computed", "EventValues", "LackingValueError", "Taken", "Values"]

# Events whose states are read at once.
_ROUND_TRIP = 1000

Event = Mapping[str, Any]
Values = Mapping[str, Decimal | None]
"""Derived columns of one event, by the key of the column."""
Taken = Mapping[str, Values]
"""What an event takes over from those of its id in other sources, by source."""
NOTHING: Taken = {}


class LackingValueError(KeyError):
    """An event without a derived column that it takes over.

    Attributes:
        spec: a view that reads it. event_id: of the event. columns: all that it lacks there.
    """

    def __init__(self, spec: ViewSpec, event_id: Any, columns: Sequence[Derived]) -> None:
        first = columns[0]
        super().__init__(
            f"{spec.view}: an event of {spec.source!r} lacks column {first.name!r}, which is computed of "
            f"{first.source!r}; give it the value that it has there"
        )
        self.spec, self.event_id, self.columns = spec, event_id, tuple(columns)


class Computed:
    """What a view computes of an event, to be put beside the event's own columns.

    Attributes:
        own: the derived columns that are computed here. taken: those that are taken over from events of another source.
    """

    def __init__(self, spec: ViewSpec) -> None:
        conditions, self.derived = used(spec)
        self.own = [column for column in self.derived if column.source in ("", spec.source)]
        self.taken = [column for column in self.derived if column not in self.own]
        tests = dict(spec.tests)
        self._tests = [(name, tests[name]) for name, _ in conditions]
        self._spec = spec
        self.meaning = (tuple(conditions), tuple(column.digest for column in self.derived))

    def require(self, event: Event, taken: Taken) -> None:
        """See that everything is there that the event takes over.

        Raises:
            LackingValueError: it is not.
        """
        lacking = [c for c in self.taken if c.name not in event and c.key not in taken.get(c.source, {})]
        if lacking:
            raise LackingValueError(self._spec, event.get(self._spec.event_id), lacking)

    def completed(
        self, events: Sequence[Event], values: Sequence[Values], taken: Sequence[Taken]
    ) -> Sequence[Event]:
        """The events, each as ``complete`` gives it."""
        if not self.derived and not self._tests:
            return events
        return list(map(self.complete, events, values, taken))

    def complete(self, event: Event, values: Values, taken: Taken) -> Event:
        """The event with all columns of the view. A derived column that it carries already is believed.

        Raises:
            KeyError: it lacks what a condition reads. TypeError: see ``Predicate``. LackingValueError: a column that it takes
                over is not there.
        """
        self.require(event, taken)
        whole = dict(event)
        for column in self.own:
            if column.name not in event:
                whole[column.name] = values[column.key]
        for column in self.taken:
            if column.name not in event:
                whole[column.name] = taken[column.source][column.key]
        for name, test in self._tests:
            whole[name] = test.truth(whole)
        return whole


class EventValues:
    """Computes derived columns of events of one source.

    Args:
        timestamp: the events' time. wanted: the columns, some maybe alike.
    """

    def __init__(self, client: Any, project: str, timestamp: str, wanted: Iterable[Derived]) -> None:
        columns = {column.key: column for column in wanted}
        self._columns, self._timestamp = tuple(columns.values()), timestamp
        self._as_of = {
            as_of: _Columns(client, project, [c for c in columns.values() if c.as_of == as_of])
            for as_of in dict.fromkeys(column.as_of for column in columns.values())
        }
        self.nulls: Values = dict.fromkeys(columns)

    def check(self, event: Event) -> None:
        """See that an event has what the columns are computed from.

        Raises:
            KeyError: it lacks a column.
        """
        for columns in self._as_of.values():
            columns.lacking(event)

    def read(self, events: Sequence[Event]) -> list[Values]:
        """The derived columns of each event: of a thousand events, a round trip for each column that says as of when.

        What an event carries already is believed.

        Raises:
            KeyError: an event lacks a column. TypeError: it holds what a transform cannot read. LookupError: an event lies so
                far back that its windows are not kept any more. redis.RedisError: no answer.
        """
        if not self._columns:
            return [self.nulls] * len(events)
        found: list[dict[str, Decimal | None]] = [
            {column.key: event[column.name] for column in self._columns if column.name in event}
            for event in events
        ]
        for as_of, columns in self._as_of.items():
            places = [i for i, event in enumerate(events) if columns.lacking(event)]
            for first in range(0, len(places), _ROUND_TRIP):
                some = places[first : first + _ROUND_TRIP]
                asking = [events[i] for i in some]
                instants = [to_microseconds(event[self._timestamp]) for event in asking]
                given = [event.get(as_of) for event in asking]
                known = [
                    time if at is None else to_microseconds(at)
                    for at, time in zip(given, instants, strict=True)
                ]
                answers = columns.values(asking, np.array(instants), np.array(known))
                for key, values in answers.items():
                    for i, value in zip(some, values, strict=True):
                        found[i].setdefault(key, value)
        return list(found)


class _Columns:
    """Derived columns that are as of the same column of the event."""

    def __init__(self, client: Any, project: str, columns: Sequence[Derived]) -> None:
        self._columns = columns
        bases = {base.digest: base for column in columns for base in column.views}
        self._bases = bases
        self._reader = StateReader(client, [StateView(base, project, base.keys) for base in bases.values()])
        self._names = {key for base in bases.values() for key in base.keys}
        self._names.update(name for column in columns for name in column.event_columns)

    def lacking(self, event: Event) -> bool:
        """Whether the event does not carry all of them.

        Raises:
            KeyError: it lacks what they are computed from.
        """
        absent = [column.name for column in self._columns if column.name not in event]
        if absent:
            for name in sorted(self._names):
                if name not in event:
                    raise KeyError(
                        f"event: it lacks column {name!r}, from which derived column {absent[0]!r} is computed; give it, or null"
                    )
        return bool(absent)

    def values(
        self, events: Sequence[Event], instants: Integers, known: Integers
    ) -> dict[str, list[Decimal | None]]:
        """Each column's values by its key."""
        windows, _, _ = self._reader.read(events, instants, known)
        answers = {}
        for (digest, base), (results, _) in zip(self._bases.items(), windows, strict=True):
            nobody = [i for i, event in enumerate(events) if any(event[key] is None for key in base.keys)]
            if nobody:
                # Nothing stands under a key that is null, whatever the name of its state.
                results = results.copy()
                results[nobody] = windows_of_states(base, [b""], instants[:1], known[:1])[0]
            answers[digest] = as_reals(base, results)
        found = {}
        for column in self._columns:
            read = {name: reals(pa.array([event[name] for event in events])) for name in column.event_columns}
            for base in column.views:
                read |= {n: values for n, values in answers[base.digest].items() if n in column.reads}
            units = stored(features(column, instants, read), column.scale).tolist()
            found[column.key] = [
                None if unit == NULL else Decimal(unit).scaleb(-column.scale) for unit in units
            ]
        return found
