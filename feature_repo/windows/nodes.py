"""Sealed events of a hot key: a tree of summaries, so that a window reads the chunks at its edges and no others.

A *node* stands for a run of events in order of time. Its content, a part beside the state, is a chunk of their records
(level 0) or nodes of the level below. Nodes never share an instant, and follow each other in time; parts never change.

Nodes are packed as their number in 4 bytes, then rows of int64: the part's name, level, events, time of the first, time of the
last, known time of the one known last; then for each column of numbers what ``kernel.Blocks`` holds of it. Where a view has
percentiles, the histograms follow, each node's with its length.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from feature_repo.windows.evaluate import Integers
from feature_repo.windows.kernel import NULL, Blocks, bucket_of
from feature_repo.windows.records import Decoded
from feature_repo.windows.spec import ViewSpec

PART, LEVEL, COUNT, FIRST, LAST, KNOWN = range(6)
_FIXED = 6
_NUMBERS, _SUM, _HIGH, _LOW, _LEAST, _GREATEST, _FIRST_VALUE, _LAST_VALUE = range(8)
_EACH = 8
_WORD = 2**64


@dataclass(frozen=True)
class Nodes:
    """Nodes in order of time.

    Attributes:
        words: int64[b, w] as above. histograms: of each node; empty for a view without percentiles.
    """

    words: Integers
    histograms: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, places: slice) -> "Nodes":
        return Nodes(self.words[places], self.histograms[places])

    def packed(self) -> bytes:
        """As bytes; none for no nodes."""
        if not len(self):
            return b""
        hung = b"".join(len(h).to_bytes(4, "little") + h for h in self.histograms)
        return len(self).to_bytes(4, "little") + self.words.tobytes() + hung


def columns_of(spec: ViewSpec) -> list[int]:
    """The stored columns that nodes sum up: numbers."""
    return [i for i, column in enumerate(spec.columns) if column.kind == "number"]


def has_percentiles(spec: ViewSpec) -> bool:
    """Whether its nodes need histograms."""
    return any(a.function[0] == "p" and a.function[1:].isdigit() for a in spec.aggregates)


def no_nodes(spec: ViewSpec) -> Nodes:
    """None at all."""
    return Nodes(np.empty((0, _FIXED + _EACH * len(columns_of(spec))), dtype=np.int64))


def unpack(spec: ViewSpec, data: bytes) -> Nodes:
    """The inverse of ``Nodes.packed``."""
    if not data:
        return no_nodes(spec)
    count, width = int.from_bytes(data[:4], "little"), _FIXED + _EACH * len(columns_of(spec))
    end = 4 + 8 * count * width
    words = np.frombuffer(data, dtype="<i8", count=count * width, offset=4).reshape(count, width)
    return Nodes(words, tuple(_histograms(data, end)) if has_percentiles(spec) else ())


def _histograms(data: bytes, at: int) -> Iterator[bytes]:
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def join(spec: ViewSpec, several: Sequence[Nodes]) -> Nodes:
    """Nodes one after the other."""
    if not several:
        return no_nodes(spec)
    words = np.concatenate([nodes.words for nodes in several])
    return Nodes(words, tuple(h for nodes in several for h in nodes.histograms))


def _signed(value: int) -> int:
    value %= _WORD
    return value - _WORD if value >= _WORD // 2 else value


def _pack_histograms(columns: Sequence[Counter[int]]) -> bytes:
    pairs = [sorted(column.items()) for column in columns]
    return b"".join(
        np.array([len(p), *(x for pair in p for x in pair)], dtype="<i4").tobytes() for p in pairs
    )


def _unpack_histograms(data: bytes) -> list[Integers]:
    """For each column int64[n, 2]: bucket and count."""
    found, words, at = [], np.frombuffer(data, dtype="<i4").astype(np.int64), 0
    while at < len(words):
        n = int(words[at])
        found.append(words[at + 1 : at + 1 + 2 * n].reshape(n, 2))
        at += 1 + 2 * n
    return found


def of_events(spec: ViewSpec, decoded: Decoded, places: slice, part: int) -> Nodes:
    """The node of a chunk of events, which are in order of time, none of them void."""
    events = decoded.events
    times = events.timestamps[places]
    row = [part, 0, len(times), int(times[0]), int(times[-1]), int(events.known[places].max())]
    histograms = []
    for c in columns_of(spec):
        values = events.values[c, places]
        values = values[values != NULL]
        if not len(values):
            row += [0, 0, 0, 0, int(NULL), int(NULL), int(NULL), int(NULL)]
        else:
            squares = sum(value * value for value in values.tolist())
            row += [
                len(values), int(values.sum()), _signed(squares >> 64), _signed(squares), int(values.min()), int(values.max()),
                int(values[0]), int(values[-1]),
            ]  # fmt: skip
        histograms.append(
            Counter(int(bucket_of(value)) for value in values) if has_percentiles(spec) else Counter()
        )
    packed = (_pack_histograms(histograms),) if has_percentiles(spec) else ()
    return Nodes(np.array([row], dtype=np.int64), packed)


def above(spec: ViewSpec, below: Nodes, part: int) -> Nodes:
    """The node whose content they are."""
    words = below.words
    row = [
        part, int(words[0, LEVEL]) + 1, int(words[:, COUNT].sum()), int(words[0, FIRST]), int(words[-1, LAST]),
        int(words[:, KNOWN].max()),
    ]  # fmt: skip
    for c in range(len(columns_of(spec))):
        own = words[:, _FIXED + _EACH * c : _FIXED + _EACH * (c + 1)]
        filled = own[own[:, _NUMBERS] > 0]
        squares = sum(h % _WORD * _WORD + low % _WORD for h, low in filled[:, [_HIGH, _LOW]].tolist())
        row += [
            int(own[:, _NUMBERS].sum()),
            int(own[:, _SUM].sum()),
            _signed(squares >> 64),
            _signed(squares),
        ]
        if len(filled):
            row += [int(filled[:, _LEAST].min()), int(filled[:, _GREATEST].max())]
            row += [int(filled[0, _FIRST_VALUE]), int(filled[-1, _LAST_VALUE])]
        else:
            row += [int(NULL)] * 4
    packed: tuple[bytes, ...] = ()
    if has_percentiles(spec):
        totals: list[Counter[int]] = [Counter() for _ in columns_of(spec)]
        for histogram in below.histograms:
            for total, pairs in zip(totals, _unpack_histograms(histogram), strict=True):
                for bucket, count in pairs.tolist():
                    total[bucket] += count
        packed = (_pack_histograms(totals),)
    return Nodes(np.array([row], dtype=np.int64), packed)


def as_blocks(spec: ViewSpec, nodes: Nodes, index: Integers) -> Blocks:
    """Nodes as the kernel reads them; ``index`` as there."""
    c, b, held = len(spec.columns), len(nodes), columns_of(spec)
    parts = np.zeros((_EACH, c, b), dtype=np.int64)
    parts[_LEAST:] = NULL
    for i, column in enumerate(held):
        parts[:, column] = nodes.words[:, _FIXED + _EACH * i : _FIXED + _EACH * (i + 1)].T
    sizes, pairs = np.zeros((c, b), dtype=np.int64), [np.empty((0, 2), dtype=np.int64)]
    if nodes.histograms:
        unpacked = [_unpack_histograms(histogram) for histogram in nodes.histograms]
        for i, column in enumerate(held):
            for j, each in enumerate(unpacked):
                sizes[column, j] = len(each[i])
                pairs.append(each[i])
    flat = np.concatenate(pairs)
    starts = np.zeros(c * b + 1, dtype=np.int64)
    np.cumsum(sizes.ravel(), out=starts[1:])
    return Blocks(
        index=index,
        count=np.ascontiguousarray(nodes.words[:, COUNT]),
        last_time=np.ascontiguousarray(nodes.words[:, LAST]),
        numbers=parts[_NUMBERS],
        sums=parts[_SUM],
        high=parts[_HIGH].view(np.uint64),
        low=parts[_LOW].view(np.uint64),
        least=parts[_LEAST],
        greatest=parts[_GREATEST],
        first=parts[_FIRST_VALUE],
        last=parts[_LAST_VALUE],
        histogram_starts=starts,
        histogram_buckets=np.ascontiguousarray(flat[:, 0]),
        histogram_counts=np.ascontiguousarray(flat[:, 1]),
    )
