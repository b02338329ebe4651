"""Summaries of runs of events, from which the kernel answers for a key too hot to be read event by event."""

import numpy as np
from numpy.typing import NDArray

from feature_repo.windows.evaluate import Events, Integers
from feature_repo.windows.kernel import Blocks, summarized
from feature_repo.windows.spec import ViewSpec

NO_ROWS = np.empty(0, dtype=np.int64)


def summarize(spec: ViewSpec, events: Events, starts: Integers) -> Blocks:
    """Each run of rows as one block; ``index`` of the result is empty, for whoever places the blocks among rows to fill.

    Args:
        events: of any keys, in order; rows may be events, or blocks themselves, which are merged.
        starts: int64[b + 1]; rows ``starts[j]:starts[j + 1]``, at least one and of one key, become block j.
    """
    added: NDArray[np.bool_] = np.array([column.kind == "number" for column in spec.columns], dtype=np.bool_)
    ranked: NDArray[np.bool_] = np.array(
        [column.name in spec.ranked for column in spec.columns], dtype=np.bool_
    )
    return Blocks(
        NO_ROWS, *summarized(events.timestamps, events.values, events.blocks, starts, added, ranked & added)
    )
