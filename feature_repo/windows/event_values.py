"""Columns that views compute of an event when it is recorded: conditions, and derived columns from the states as they are kept.

A derived column is read as of when the event was scored, or else as of its event time, and only what was known strictly before
that counts. So it comes out the same whenever it is computed, from the states or from history.
"""

from collections.abc import Mapping, Sequence
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

__all__ = ["Computed", "EventValues"]

# Events whose states are read at once.
_ROUND_TRIP = 1000

Event = Mapping[str, Any]
Values = Mapping[str, Decimal | None]
"""Derived columns of one event, by the digest of the column."""


class Computed:
    """What a view computes of an event, to be put beside the event's own columns."""

    def __init__(self, spec: ViewSpec) -> None:
        conditions, self.derived = used(spec)
        tests = dict(spec.tests)
        self._tests = [(name, tests[name]) for name, _ in conditions]
        self._spec = spec
        self.meaning = (tuple(conditions), tuple(column.digest for column in self.derived))

    @property
    def own(self) -> list[Derived]:
        """The derived columns that are computed here; events of another source bring theirs along."""
        return [column for column in self.derived if column.source in ("", self._spec.source)]

    def complete(self, event: Event, values: Values) -> Event:
        """The event with all columns of the view. A derived column that it carries already is believed.

        Raises:
            KeyError: it lacks a derived column of another source, or what a condition reads. TypeError: see ``Predicate``.
        """
        if not self.derived and not self._tests:
            return event
        whole = dict(event)
        for column in self.derived:
            if column.name in event:
                continue
            if column.digest not in values:
                raise KeyError(
                    f"{self._spec.view}: an event of {self._spec.source!r} lacks column {column.name!r}, which is computed of "
                    f"{column.source!r}; give it the value that it has there"
                )
            whole[column.name] = values[column.digest]
        for name, test in self._tests:
            whole[name] = test.truth(whole)
        return whole


class EventValues:
    """Computes derived columns of events of one source.

    Args:
        specs: views of the source, with one event time.
    """

    def __init__(self, client: Any, project: str, specs: Sequence[ViewSpec]) -> None:
        columns = {column.digest: column for spec in specs for column in Computed(spec).own}
        self._timestamp = specs[0].timestamp
        self._as_of = {
            as_of: _Columns(client, project, [c for c in columns.values() if c.as_of == as_of])
            for as_of in dict.fromkeys(column.as_of for column in columns.values())
        }
        self.nulls: Values = dict.fromkeys(columns)

    def read(self, events: Sequence[Event]) -> list[Values]:
        """The derived columns of each event: of a thousand events, a round trip for each column that says as of when.

        Raises:
            KeyError: an event lacks a column. TypeError: it holds what a transform cannot read. LookupError: an event lies so
                far back that its windows are not kept any more. redis.RedisError: no answer.
        """
        found: list[dict[str, Decimal | None]] = [{} for _ in events]
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
                for digest, values in answers.items():
                    for i, value in zip(some, values, strict=True):
                        found[i][digest] = value
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
        """Each column's values by its digest."""
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
            found[column.digest] = [
                None if unit == NULL else Decimal(unit).scaleb(-column.scale) for unit in units
            ]
        return found
