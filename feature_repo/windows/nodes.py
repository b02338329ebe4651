"""Sealed events of a hot key: a tree of summaries, so that a window reads the chunks at its edges and no others.

A *node* stands for a run of events in order of time. Its content, a part beside the state, is a chunk of their records
(level 0) or nodes of the level below. Nodes never share an instant, and follow each other in time; parts never change.

Nodes are packed as their number in 4 bytes, then rows of int64: the part's name, level, events, time of the first, time of the
last, known time of the one known last; then for each column of numbers what ``kernel.Blocks`` holds of it. Where a view has
percentiles, the histograms follow, each node's with its length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from feature_repo.windows.blocks import summarize
from feature_repo.windows.evaluate import Events, Integers
from feature_repo.windows.kernel import NULL, Blocks
from feature_repo.windows.spec import ViewSpec

PART, LEVEL, COUNT, FIRST, LAST, KNOWN = range(6)
_FIXED = 6
_NUMBERS, _SUM, _HIGH, _LOW, _LEAST, _GREATEST, _FIRST_VALUE, _LAST_VALUE = range(8)
_EACH = 8
_HALF, _HALF_BITS = np.uint64(0xFFFFFFFF), np.uint64(32)
_MOST = np.iinfo(np.int64).max


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
    return bool(spec.ranked)


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


def _pack_histograms(columns: Sequence[Integers]) -> bytes:
    """Of each column int64[n, 2], bucket and count, as one text of int32."""
    parts = [np.concatenate([[len(pairs)], pairs.ravel()]) for pairs in columns]
    return np.concatenate(parts).astype("<i4").tobytes() if parts else b""


def _unpack_histograms(data: bytes) -> list[Integers]:
    """For each column int64[n, 2]: bucket and count."""
    found, words, at = [], np.frombuffer(data, dtype="<i4").astype(np.int64), 0
    while at < len(words):
        n = int(words[at])
        found.append(words[at + 1 : at + 1 + 2 * n].reshape(n, 2))
        at += 1 + 2 * n
    return found


def of_events(spec: ViewSpec, events: Events, starts: Integers, parts: Sequence[int]) -> Nodes:
    """The nodes of runs of events.

    Args:
        events: of one key, in order of time. starts: int64[b + 1], rows ``starts[j]:starts[j + 1]`` are node j's.
        parts: names of their contents.
    """
    blocks = summarize(spec, events, starts)
    firsts = starts[:-1]
    words = np.empty((len(firsts), no_nodes(spec).words.shape[1]), dtype=np.int64)
    words[:, PART], words[:, LEVEL], words[:, COUNT] = parts, 0, blocks.count
    words[:, FIRST], words[:, LAST] = events.timestamps[firsts], blocks.last_time
    words[:, KNOWN] = np.maximum.reduceat(events.known[: starts[-1]], firsts)
    held = columns_of(spec)
    columns = (
        blocks.numbers, blocks.sums, blocks.high.view(np.int64), blocks.low.view(np.int64), blocks.least, blocks.greatest,
        blocks.first, blocks.last,
    )  # fmt: skip
    for i, column in enumerate(held):
        for j, each in enumerate(columns):
            words[:, _FIXED + _EACH * i + j] = each[column]
    if not has_percentiles(spec):
        return Nodes(words)
    pairs = np.stack([blocks.histogram_buckets, blocks.histogram_counts], axis=1)
    ends, b = blocks.histogram_starts, len(firsts)
    return Nodes(
        words,
        tuple(
            _pack_histograms([pairs[ends[column * b + j] : ends[column * b + j + 1]] for column in held])
            for j in range(b)
        ),
    )


def merged(spec: ViewSpec, below: Nodes, starts: Integers) -> Nodes:
    """Runs of nodes as one each: ``starts`` as for events. Parts and levels are those of the first of each."""
    firsts, words = starts[:-1], below.words[: starts[-1]]
    out = words[firsts].copy()
    out[:, COUNT] = np.add.reduceat(words[:, COUNT], firsts)
    out[:, LAST] = words[starts[1:] - 1, LAST]
    out[:, KNOWN] = np.maximum.reduceat(words[:, KNOWN], firsts)
    places = np.arange(len(words))
    for c in range(len(columns_of(spec))):
        own, to = words[:, _FIXED + _EACH * c :], out[:, _FIXED + _EACH * c :]
        filled = own[:, _NUMBERS] > 0
        to[:, _NUMBERS] = np.add.reduceat(own[:, _NUMBERS], firsts)
        to[:, _SUM] = np.add.reduceat(own[:, _SUM], firsts)
        low = own[:, _LOW].view(np.uint64)
        bottom = np.add.reduceat(low & _HALF, firsts)
        middle = np.add.reduceat(low >> _HALF_BITS, firsts) + (bottom >> _HALF_BITS)
        to[:, _LOW] = ((middle << _HALF_BITS) | (bottom & _HALF)).view(np.int64)
        carry = (middle >> _HALF_BITS).view(np.int64)
        to[:, _HIGH] = np.add.reduceat(own[:, _HIGH], firsts) + carry
        # Null is the least integer: it loses against every greatest, and must not win against a least.
        least = np.minimum.reduceat(np.where(filled, own[:, _LEAST], _MOST), firsts)
        some = to[:, _NUMBERS] > 0
        to[:, _LEAST] = np.where(some, least, NULL)
        to[:, _GREATEST] = np.maximum.reduceat(own[:, _GREATEST], firsts)
        first = np.minimum.reduceat(np.where(filled, places, len(words) - 1), firsts)
        last = np.maximum.reduceat(np.where(filled, places, 0), firsts)
        to[:, _FIRST_VALUE] = np.where(some, own[first, _FIRST_VALUE], NULL)
        to[:, _LAST_VALUE] = np.where(some, own[last, _LAST_VALUE], NULL)
    runs = pairwise(starts.tolist())
    return Nodes(out, tuple(_summed(below.histograms[a:b]) for a, b in runs) if below.histograms else ())


def _summed(histograms: Sequence[bytes]) -> bytes:
    if len(histograms) == 1:
        return histograms[0]
    several = [_unpack_histograms(histogram) for histogram in histograms]
    found = []
    for columns in zip(*several, strict=True):
        pairs = np.concatenate(columns)
        buckets, inverse = np.unique(pairs[:, 0], return_inverse=True)
        counts = np.bincount(inverse, weights=pairs[:, 1], minlength=len(buckets)).astype(np.int64)
        found.append(np.stack([buckets, counts], axis=1))
    return _pack_histograms(found)


def above(spec: ViewSpec, below: Nodes, part: int) -> Nodes:
    """The node whose content they are."""
    node = merged(spec, below, np.array([0, len(below)]))
    node.words[0, PART] = part
    node.words[0, LEVEL] += 1
    return node


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


def of_columns(blocks: Blocks, columns: Sequence[int]) -> Blocks:
    """Blocks of some of the columns."""
    b = len(blocks.count)
    starts = blocks.histogram_starts
    sizes = np.diff(starts).reshape(-1, b)[columns] if b else np.zeros((len(columns), 0), dtype=np.int64)
    rows = [np.arange(starts[c * b], starts[(c + 1) * b]) for c in columns]
    places = np.concatenate([np.empty(0, dtype=np.int64), *rows])
    each = {
        name: getattr(blocks, name)[columns]
        for name in ("numbers", "sums", "high", "low", "least", "greatest")
    }
    return blocks._replace(
        **each,
        first=blocks.first[columns],
        last=blocks.last[columns],
        histogram_starts=np.concatenate([[0], np.cumsum(sizes.ravel())]).astype(np.int64),
        histogram_buckets=blocks.histogram_buckets[places],
        histogram_counts=blocks.histogram_counts[places],
    )
