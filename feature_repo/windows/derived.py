"""Derived event columns: what was computed of an event when it happened, kept with it, and aggregated in its turn.

Such as a transaction's amount over the customer's mean of 30 days at that moment: the largest of these in a week is a feature.
A derived column is an output of a transform (or of a windowed view) at the event's own keys and columns, at its own instant,
as of the moment at which it was scored where the source tells (see ``as_of``), else as of its event time. Stored as an integer
of so many decimal places, so that windows over it are exact. Offline it is computed for every event before the views that read
it; online when the event is recorded. Same engine, same question, so the same bits.
"""

import json
from collections.abc import Sequence

import numpy as np
from feast import Entity, FeatureView
from numpy.typing import NDArray

from feature_repo.windows.kernel import NULL
from feature_repo.windows.plain_data import to_data
from feature_repo.windows.spec import Derived, view_spec
from feature_repo.windows.transform import Transform

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


def stored(values: NDArray[np.float64], scale: int) -> NDArray[np.int64]:
    """Features as the integers that are kept, in units of ``10**-scale``, half to even; null where not finite or too large.

    Too large is beyond 2**53 units, where a float no longer tells neighbours apart.
    """
    scaled = np.rint(values * 10.0**scale)
    fits = np.abs(scaled) < _LIMIT
    return np.where(fits, np.where(fits, scaled, 0.0).astype(np.int64), NULL)
