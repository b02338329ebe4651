"""History into states: records packed a batch at a time, one write a key, large keys sealed as they come."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_repo.windows.compaction import Compactor, typical_width
from feature_repo.windows.evaluate import Integers
from feature_repo.windows.head import HEAD_BYTES, SIZES, Head, Sizes
from feature_repo.windows.kernel import NULL
from feature_repo.windows.keys import lifetime_s, state_key
from feature_repo.windows.records import pack_records
from feature_repo.windows.scripts import script
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.wire import bulk

_KEYS_PER_ROUND_TRIP = 1000
# Keys that one call of the script writes; nobody else is served meanwhile.
_TOGETHER = 100
# Events of one key that are written before it is compacted: what the server holds at once of a key yet to be sealed.
_PIECE = 50_000


class HistoryWriter:
    """Writes batches of one view's events.

    Args:
        prefix: of its state keys. sizes: how large the parts of a state grow.
    """

    def __init__(self, client: Any, spec: ViewSpec, prefix: bytes, sizes: Sizes = SIZES) -> None:
        self._client, self._spec, self._prefix, self._sizes = client, spec, prefix, sizes
        self._compactor = Compactor(client, spec, sizes)
        self._room = sizes.room(typical_width(spec))
        self._constants = bulk(lifetime_s(spec)) + bulk(HEAD_BYTES + self._room)
        self._last: tuple[str, ...] | None = None

    def write(self, batch: pa.RecordBatch) -> int:
        """Write the events of a batch into the states of their keys; what is there already counts once.

        Args:
            batch: the view's keys as text, ``__time``, ``__known``, ``__id``, ``__void`` (if versions may come), ``__v0``...;
                by key, then time. A key may go on in the next batch.

        Returns:
            How many keys were begun: one that goes on from the batch before is none.

        Raises:
            redis.RedisError: no answer. ValueError: a time that a state cannot hold.
        """
        if batch.num_rows == 0:
            return 0
        batch = self._once(batch)
        starts = self._runs(batch)
        names = [batch.column(key).take(pa.array(starts[:-1])).to_pylist() for key in self._spec.keys]
        keys = list(zip(*names, strict=True))
        void = _integers(batch.column("__void")).astype(np.uint8) if self._spec.corrected else None
        values = [_integers(batch.column(f"__v{i}")) for i in range(len(self._spec.columns))]
        content, places = pack_records(
            self._spec, _integers(batch.column("__time")), _integers(batch.column("__known")),
            _integers(batch.column("__id")),
            np.stack(values) if values else np.empty((0, batch.num_rows), dtype=np.int64), void,
        )  # fmt: skip
        self._send(keys, starts, content.tobytes(), places)
        begun = len(keys) - (keys[0] == self._last)
        self._last = keys[-1]
        return begun

    def _once(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Without what stands twice."""
        same = ~self._changes(batch)
        for name in ("__time", "__id", *(["__known"] if self._spec.corrected else [])):
            values = _integers(batch.column(name))
            same[1:] &= values[1:] == values[:-1]
        return batch.filter(pa.array(~same)) if same.any() else batch

    def _changes(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        """Where a row has another key than the one before."""
        change = np.zeros(batch.num_rows, dtype=np.bool_)
        change[0] = True
        for key in self._spec.keys:
            coded = batch.column(key).dictionary_encode().indices.to_numpy()
            change[1:] |= coded[1:] != coded[:-1]
        return change

    def _runs(self, batch: pa.RecordBatch) -> Integers:
        return np.append(np.flatnonzero(self._changes(batch)), batch.num_rows)

    def _send(
        self, keys: Sequence[Sequence[str]], starts: Integers, content: bytes, places: Integers
    ) -> None:
        several: list[tuple[bytes, bytes]] = []
        heads = self._heads(np.diff(places[starts])).tolist()
        at, ends = starts.tolist(), places[starts].tolist()
        for i, values in enumerate(keys):
            key = state_key(self._prefix, values)
            if at[i + 1] - at[i] > _PIECE:
                for first in range(at[i], at[i + 1], _PIECE):
                    last = min(first + _PIECE, at[i + 1])
                    self._load([(key, heads[i] + content[places[first] : places[last]])])
                continue
            several.append((key, heads[i] + content[ends[i] : ends[i + 1]]))
            if len(several) == _KEYS_PER_ROUND_TRIP:
                self._load(several)
                several = []
        self._load(several)

    def _heads(self, sizes: Integers) -> NDArray[np.void]:
        """The heads of new states with so many bytes of records: they differ in when to compact them."""
        grown = np.minimum(2 * sizes, self._room)
        grown = 2 * sizes if self._spec.corrected else np.maximum(grown, sizes + self._room // 4)
        heads = np.empty((len(sizes), HEAD_BYTES), dtype=np.uint8)
        heads[:] = np.frombuffer(Head().packed(), dtype=np.uint8)
        compact_at = (HEAD_BYTES + np.maximum(self._sizes.quiet, grown)).astype("<u4")
        heads[:, -4:] = compact_at.view(np.uint8).reshape(-1, 4)
        return heads.view(f"V{HEAD_BYTES}").ravel()

    def _load(self, states: Sequence[tuple[bytes, bytes]]) -> None:
        calls = []
        for first in range(0, len(states), _TOGETHER):
            some = states[first : first + _TOGETHER]
            keys = [bulk(key) for key, _ in some]
            calls.append(
                script("load").call(keys, [self._constants, *(bulk(new) for _, new in some)], 2 + len(some))
            )
        answers = script("load").send(self._client, calls)
        due = [n * _TOGETHER + place - 1 for n, places in enumerate(answers) for place in places]
        self._compactor.compact([states[i][0] for i in due])


def _integers(column: pa.Array) -> Integers:
    """A column as int64; null as the kernel's null."""
    if column.null_count:
        column = column.fill_null(pa.scalar(int(NULL), column.type))
    return np.ascontiguousarray(column.to_numpy(zero_copy_only=False).astype(np.int64, copy=False))
