"""Derived event columns: what was computed of an event when it happened, kept with it, and aggregated in its turn.

Such as a transaction's amount over the customer's mean of 30 days at that moment: the largest of these in a week is a feature.
A derived column is an output of a transform (or of a windowed view) at the event's own keys and columns, at its own instant,
as of the moment at which it was scored where the source tells (see ``as_of``), else as of its event time. Stored as an integer
of so many decimal places, so that windows over it are exact. Offline it is computed for every event before the views that read
it; online when the event is recorded. Same engine, same question, so the same bits.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from feast import Entity, FeatureView
from numpy.typing import NDArray

from feature_repo.windows.kernel import NULL
from feature_repo.windows.plain_data import to_data
from feature_repo.windows.spec import Derived, ViewSpec, view_spec
from feature_repo.windows.transform import TIME, Reals, Transform

Integers = NDArray[np.int64]
# Beyond this a float64 is no whole number of its own any more.
_LIMIT = 2.0**53


def derive(
    name: str,
    views: Sequence[FeatureView],
    entities: Sequence[Entity],
    output: str,
    scale: int,
    *,
    transform: Transform | None = None,
    as_of: str = "",
    source: str = "",
) -> Derived:
    """Declare a derived column; see ``Derived``.

    Args:
        views: those that ``transform``, or without one ``output`` itself, is computed from. entities: theirs.

    Raises:
        ValueError: nothing there gives ``output``, or the scale is none.
    """
    if not 0 <= scale <= 15:
        raise ValueError(f"derived column {name!r}: scale {scale}: not 0 to 15 decimal places")
    specs = [view_spec(view, [e for e in entities if e.name in view.entities]) for view in views]
    given = transform.outputs if transform else tuple(a.name for spec in specs for a in spec.aggregates)
    if output not in given:
        raise ValueError(f"derived column {name!r}: no output {output!r}; there are {', '.join(given)}")
    reads = tuple(sorted(transform.inputs)) if transform else (output,)
    used = tuple(spec for spec in specs if any(a.name in reads for a in spec.aggregates))
    made_by = (transform.path, transform.digest) if transform else ("", "")
    return Derived(name, output, scale, used, reads, made_by, as_of, source)


def as_tag(columns: Sequence[Derived]) -> str:
    """Derived columns as the text of a view's tag."""
    return json.dumps([to_data(each) for each in sorted(columns, key=lambda each: each.name)])


def used(spec: ViewSpec) -> tuple[list[tuple[str, str]], list[Derived]]:
    """The conditions and derived columns that a view's aggregates, its filter, or one of these conditions read."""
    read = {column.name for column in spec.columns} | set(spec.predicate.columns if spec.predicate else ())
    conditions = [each for each in spec.conditions if each[0] in read]
    for name, test in spec.tests:
        read |= set(test.columns) if name in read else set()
    return conditions, [column for column in spec.derived if column.name in read]


def features(column: Derived, instants: Integers, read: Mapping[str, Reals]) -> Reals:
    """A derived column of n events as features, before they are rounded to be stored.

    Args:
        instants: int64[n] event times, microseconds. read: what the column reads but for the time, float64[n] each.
    """
    seconds = np.floor_divide(instants, 1_000_000).astype(np.float64)
    function = column.function
    return function({TIME: seconds, **read})[column.output] if function else read[column.output]


def decimals(values: Integers, scale: int) -> pa.Array:
    """Stored values as DECIMAL(18, scale)."""
    halves = np.stack([values, values >> 63], axis=1)
    valid = np.packbits(values != NULL, bitorder="little")
    kind = pa.decimal128(18, scale)
    return pa.Array.from_buffers(kind, len(values), [pa.py_buffer(valid), pa.py_buffer(halves)])


def stored(values: Reals, scale: int) -> Integers:
    """Features as the integers that are kept, in units of ``10**-scale``, half to even; null where not finite or too large.

    Too large is beyond 2**53 units, where a float no longer tells neighbours apart.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.rint(values * 10.0**scale)
    fits = np.abs(scaled) < _LIMIT
    return np.where(fits, np.where(fits, scaled, 0.0).astype(np.int64), NULL)
