"""The population stability index of two samples in bins, and when it means something.

PSI is the sum over bins of ``(q - p) ln(q / p)``, p the share before and q the share now. With n rows before, m now and B bins
it is not 0 without drift, but distributed as ``(1/n + 1/m)`` times chi-squared with B - 1 degrees of freedom, so its mean is
``(B - 1)(1/n + 1/m)`` (B. Yurdakul, «Statistical Properties of Population Stability Index», Western Michigan University, 2018).
The customary bands (N. Siddiqi, «Credit Risk Scorecards», 2006) ignore that, and call 200 fresh rows a drift; here a band needs
the excess over the mean to reach it and the PSI to be beyond chance. Rows of one customer resemble one another, so real chance
is somewhat wider than this: the bands, not the test, keep large samples quiet.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri

__all__ = ["CHANCE", "LARGE", "SOME", "Band", "Shift", "bin_counts", "shift"]

SOME, LARGE = 0.1, 0.25
# One false alarm in ten thousand comparisons: sixty features looked at daily raise one in half a year.
CHANCE = 1e-4

Band = Literal["none", "some", "large"]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shift:
    """How far one sample lies from another.

    Attributes:
        expected: mean PSI of so many rows without drift.
        limit: PSI that chance alone exceeds once in ``1 / CHANCE`` comparisons.
    """

    psi: float
    expected: float
    limit: float

    @property
    def excess(self) -> float:
        """What is left of the PSI when chance has had its part; 0 within the limit of chance."""
        return max(0.0, self.psi - self.expected) if self.psi > self.limit else 0.0

    @property
    def band(self) -> Band:
        """What the excess is called."""
        if self.excess > LARGE:
            return "large"
        return "some" if self.excess > SOME else "none"


def bin_counts(edges: Floats, values: Floats) -> Ints:
    """Rows by bin: those between the edges in order, left-closed, then zero, then null (NaN)."""
    null = np.isnan(values)
    zero = values == 0
    rest = values[~null & ~zero]
    binned = np.bincount(np.searchsorted(edges, rest, side="right"), minlength=len(edges) + 1)
    return np.concatenate([binned, [zero.sum(), null.sum()]]).astype(np.int64)


def shift(before: Ints, now: Ints) -> Shift:
    """Compare two count vectors over the same bins, neither of them empty."""
    used = (before > 0) | (now > 0)
    noise = 1 / int(before.sum()) + 1 / int(now.sum())
    freedom = int(used.sum()) - 1
    limit = float(chdtri(freedom, CHANCE)) * noise if freedom else 0.0
    return Shift(_psi(before[used], now[used]), freedom * noise, limit)


def _psi(before: Ints, now: Ints) -> float:
    """PSI of two count vectors, finite though bins are empty.

    An empty bin's share is taken as half a row, or as the other sample's share where that is smaller: so few
    rows are no evidence against a share too small for them to show.
    """
    p, q = before / before.sum(), now / now.sum()
    p_seen = np.where(before == 0, np.minimum(q, 0.5 / before.sum()), p)
    q_seen = np.where(now == 0, np.minimum(p, 0.5 / now.sum()), q)
    return float(np.sum((q_seen - p_seen) * np.log(q_seen / p_seen)))
