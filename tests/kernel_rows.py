"""What the kernel says, asked for one key, and its rows as Python values."""

import numpy as np

from feature_repo.windows.evaluate import Asks, evaluate
from feature_repo.windows.kernel import NULL

REAL = {"mean", "std", "seconds_since_last", "seconds_since_first"}


def answer(spec, events, asks):
    """A row of numbers for each (instant, known as of), in order of instants, of the ``Events`` of one key."""
    asked = np.array(asks, dtype=np.int64).reshape(-1, 2)
    out = np.empty((len(asked), len(spec.aggregates)), dtype=np.int64)
    wanted = Asks(asked[:, 0].copy(), asked[:, 1].copy(), np.array([0, len(asked)]), np.arange(len(asked)))
    evaluate(spec, events, wanted, range(1), out)
    return out


def plain(spec, row):
    """A row as a list of Python values: None for null, floats to the bit."""
    return [_plain(a.function, value) for a, value in zip(spec.aggregates, row, strict=True)]


def _plain(function, value):
    if function in REAL:
        real = float(np.int64(value).view(np.float64))
        return None if np.isnan(real) else real
    return None if value == NULL else int(value)
