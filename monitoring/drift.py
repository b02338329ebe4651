"""Drift of features and score: the population stability index against a small profile of the training set.

A profile is counts by bin, a few kilobytes of JSON made when a model is trained; the training data are not
needed later::

    {"version": 1, "columns": {name: {"rows": n, "edges": [...], "counts": [...], "zero": z, "null": k}}}

Bins are quantiles of the training values, left-closed (``edges[i-1] <= x < edges[i]``, the outermost
open-ended), after zero and null (NaN) have been given bins of their own: for windows of events they are
states («nothing happened», «no such event»), not magnitudes, and a jump in either is the most frequent sign
of a broken feed.

The index itself, and its bands, which take account of how many rows there are, are in ``training.stability``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from training.stability import Band, bin_counts, shift

__all__ = ["Band", "ColumnProfile", "Drift", "Profile", "as_profile", "build_profile", "profile", "psi"]

VERSION = 1
BINS = 10
Floats = npt.NDArray[np.float64]


class ColumnProfile(TypedDict):
    """Training rows of one column by bin: one count more than edges; zero and null are not among them."""

    rows: int
    edges: list[float]
    counts: list[int]
    zero: int
    null: int


class Profile(TypedDict):
    """What is kept of the training set, ready for JSON."""

    version: int
    columns: dict[str, ColumnProfile]


@dataclass(frozen=True)
class Drift:
    """One column's drift.

    Attributes:
        rows: live rows compared.
        expected: mean PSI of so many rows without drift.
        limit: PSI that chance alone exceeds once in ``1 / CHANCE`` comparisons.
        zero, null: live shares; ``zero_before``, ``null_before`` those of training.
    """

    name: str
    rows: int
    psi: float
    expected: float
    limit: float
    band: Band
    zero_before: float
    zero: float
    null_before: float
    null: float


def profile(table: pa.Table, feature_names: Iterable[str]) -> Profile:
    """Profile the named columns of a training table; null and NaN are one.

    Raises:
        ValueError: a name is not a column of the table.
    """
    names = list(feature_names)
    missing = sorted(set(names) - set(table.column_names))
    if missing:
        raise ValueError(f"profile: columns {missing} are not in the table; it has {table.column_names}")
    return build_profile({name: _floats(table[name]) for name in names})


def build_profile(values: Mapping[str, npt.ArrayLike]) -> Profile:
    """Profile columns given as one-dimensional arrays (null = NaN); they may differ in length.

    The score's column should be of held-out rows: a model is surer of the rows it was fitted to than it will
    be of any other, so a profile of those would see drift on the first day.
    """
    columns = {name: _profile_column(name, np.asarray(x, dtype=np.float64)) for name, x in values.items()}
    return {"version": VERSION, "columns": columns}


def psi(profile: Profile, values: Mapping[str, npt.ArrayLike]) -> list[Drift]:
    """Compare live columns (null = NaN) with the profile, in the profile's order.

    Columns that the profile has and ``values`` lacks are left out, as are columns without live rows.

    Raises:
        ValueError: the profile is of another version, or ``values`` has a column the profile does not.
    """
    if profile.get("version") != VERSION:
        raise ValueError(
            f"drift profile: version {profile.get('version')!r}, not {VERSION}; train the model again"
        )
    unknown = sorted(set(values) - set(profile["columns"]))
    if unknown:
        raise ValueError(f"drift profile: no column {unknown}; it has {sorted(profile['columns'])}")
    live = {name: np.asarray(x, dtype=np.float64) for name, x in values.items()}
    return [
        _drift(name, column, live[name])
        for name, column in profile["columns"].items()
        if name in live and live[name].size
    ]


def _floats(column: pa.ChunkedArray) -> Floats:
    return cast(Floats, column.cast(pa.float64()).to_numpy())


def _profile_column(name: str, values: Floats) -> ColumnProfile:
    if values.ndim != 1 or values.size == 0:
        raise ValueError(
            f"drift profile: {name} has shape {values.shape}; give one dimension of at least one row"
        )
    edges = _edges(values[~np.isnan(values) & (values != 0)])
    counts = bin_counts(edges, values)
    return {
        "rows": int(values.size),
        "edges": edges.tolist(),
        "counts": counts[:-2].tolist(),
        "zero": int(counts[-2]),
        "null": int(counts[-1]),
    }


def _edges(values: Floats) -> Floats:
    """Inner edges of at most ``BINS`` quantile bins; a value that fills a bin's worth of rows stands alone.

    Distinct values are put in bins by the middle of their rank, so a frequent value is never split, nor
    merged with rarer ones far from it.
    """
    if values.size == 0:
        return np.empty(0)
    distinct, counts = np.unique(values, return_counts=True)
    middle = (np.cumsum(counts) - counts / 2) / values.size
    bins = np.floor(middle * BINS).astype(np.int64)
    return distinct[1:][np.diff(bins) > 0]


def _drift(name: str, column: ColumnProfile, values: Floats) -> Drift:
    before = np.array([*column["counts"], column["zero"], column["null"]], dtype=np.int64)
    now = bin_counts(np.array(column["edges"], dtype=np.float64), values)
    found = shift(before, now)
    return Drift(
        name=name,
        rows=int(values.size),
        psi=found.psi,
        expected=found.expected,
        limit=found.limit,
        band=found.band,
        zero_before=column["zero"] / column["rows"],
        zero=float(now[-2] / values.size),
        null_before=column["null"] / column["rows"],
        null=float(now[-1] / values.size),
    )


def as_profile(document: Any) -> Profile:
    """A profile read back from JSON, checked.

    Raises:
        ValueError: the document is not a profile of this version.
    """
    if not isinstance(document, dict) or document.get("version") != VERSION or "columns" not in document:
        raise ValueError(f"drift profile: not a profile of version {VERSION}; train the model again")
    return cast(Profile, document)
