"""Compaction of states: what no window reaches goes, what came twice goes, and the older events of a hot key are sealed.

A client reads a state, works out the new one, and ``commit.lua`` puts it in place unless somebody else did so meanwhile. What
was appended in between stays. So any number of processes may compact and record at once, and it never matters whether one did.

States of views with corrections are never sealed: a version may come for any event at any time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, groupby, pairwise
from typing import Any

import numpy as np

from feature_repo.windows import nodes as tree
from feature_repo.windows.decoding import Decoded, decode
from feature_repo.windows.distinct import distinct_columns, distinct_reach_us, index_entries
from feature_repo.windows.evaluate import Events, Integers
from feature_repo.windows.head import HEAD_BYTES, NOTHING_SEALED, SIZES, Head, Sizes
from feature_repo.windows.keys import lifetime_s, parts_key, retention_us
from feature_repo.windows.nodes import COUNT, FIRST, LAST, LEVEL, PART, Nodes
from feature_repo.windows.records import FIXED, pack_records
from feature_repo.windows.scripts import script
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.wire import bulk, checked, command, exchange

# Names of parts: the generation that made them, and their number in it.
_PARTS_A_GENERATION = 2**24
Parts = dict[int, bytes]


def typical_width(spec: ViewSpec) -> int:
    """Bytes of a usual record."""
    return FIXED + sum(3 if column.kind == "number" else 7 for column in spec.columns)


def fetch_parts(client: Any, key: bytes, names: Sequence[int]) -> Parts | None:
    """Contents of nodes; None if one is gone, for the state was compacted meanwhile."""
    (found,) = checked(exchange(client, [command("HMGET", parts_key(key), *names)]))
    return None if any(each is None for each in found) else dict(zip(names, found, strict=True))


@dataclass
class _Change:
    """A new state in the making."""

    spec: ViewSpec
    sizes: Sizes
    head: Head
    nodes: Nodes
    added: Parts = field(default_factory=dict)
    gone: list[int] = field(default_factory=list)
    sealed_events: list[tuple[Integers, Integers]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._names = count((self.head.generation + 1) * _PARTS_A_GENERATION)
        self.dropped, self.indices = self.head.dropped, self.head.distinct

    @property
    def sealed(self) -> int:
        """Event time of the last sealed event."""
        return int(self.nodes.words[-1, LAST]) if len(self.nodes) else NOTHING_SEALED

    @property
    def index_from(self) -> int:
        """Event time from which an index of distinct values has to tell."""
        return max(self.sealed, NOTHING_SEALED + distinct_reach_us(self.spec)) - distinct_reach_us(self.spec)

    def remove(self, name: int) -> None:
        """A part goes; one made in this change never was."""
        if self.added.pop(name, None) is None:
            self.gone.append(name)

    def chunks(self, decoded: Decoded, cuts: Sequence[int]) -> list[Nodes]:
        """Seal events from each cut to the next."""
        if len(cuts) < 2:
            return []
        events = decoded.events
        names = [next(self._names) for _ in cuts[1:]]
        whole = slice(cuts[0], cuts[-1])
        values = np.ascontiguousarray(events.values[:, whole])
        times, known = events.timestamps[whole], events.known[whole]
        content, places = pack_records(self.spec, times, known, decoded.numbers[whole], values)
        starts = np.array(cuts, dtype=np.int64) - cuts[0]
        data, ends = content.tobytes(), places[starts].tolist()
        self.added |= {name: data[a:b] for name, (a, b) in zip(names, pairwise(ends), strict=True)}
        self.sealed_events.append((times, values))
        return [tree.of_events(self.spec, Events(times, known, values, starts[[0, -1]]), starts, names)]

    def grouped(self, nodes: Nodes) -> Nodes:
        """Put long runs of nodes of one level under nodes above them."""
        level, most = 0, self.sizes.fanout
        while True:
            levels = enumerate(nodes.words[:, LEVEL].tolist())
            runs = [[i for i, _ in run] for _, run in groupby(levels, lambda pair: pair[1])]
            several: list[Nodes] = []
            for run in runs:
                own = nodes[run[0] : run[-1] + 1]
                if int(own.words[0, LEVEL]) == level and len(nodes):
                    # What follows the last run will join it; no other run grows any more.
                    several += self._under(own, 2 * most if run is runs[-1] else most)
                else:
                    several.append(own)
            nodes = tree.join(self.spec, several)
            level += 1
            if not len(nodes) or level > int(nodes.words[:, LEVEL].max()):
                return nodes

    def _under(self, own: Nodes, at_least: int) -> Iterator[Nodes]:
        most = self.sizes.fanout
        while len(own) >= at_least:
            name, below = next(self._names), own[:most]
            self.added[name] = below.packed()
            yield tree.above(self.spec, below, name)
            own = own[most:]
        yield own


def _cuts(times: Integers, begin: int, end: int, size: int) -> list[int]:
    """Where to cut events into chunks of ``size`` or a little more, no instant divided; starts with ``begin``."""
    cuts = [begin]
    while end - cuts[-1] >= size:
        cut = cuts[-1] + size
        while cut < len(times) and times[cut] == times[cut - 1]:
            cut += 1
        cuts.append(cut)
    return cuts


class Compactor:
    """Compacts states of one view.

    Args:
        sizes: how large the parts of a state grow.
    """

    def __init__(self, client: Any, spec: ViewSpec, sizes: Sizes = SIZES) -> None:
        self._client, self._spec, self._sizes = client, spec, sizes
        self._expiry = lifetime_s(spec)

    def compact(self, keys: Sequence[bytes]) -> int:
        """Compact states as they stand; one that somebody else compacts meanwhile is left to them.

        Returns:
            How many were.

        Raises:
            redis.RedisError: no answer. ValueError: a state is damaged.
        """
        if not keys:
            return 0
        (states,) = checked(exchange(self._client, [command("MGET", *keys)]))
        calls = [self._commit(key, state) for key, state in zip(keys, states, strict=True) if state]
        done = script("commit").send(self._client, [call for call in calls if call])
        return sum(map(int, done))

    def _commit(self, key: bytes, state: bytes) -> bytes | None:
        head = Head.of(state)
        tail = decode(self._spec, [state[head.size :]], voids=True)
        change = _Change(
            self._spec, self._sizes, head, tree.unpack(self._spec, state[HEAD_BYTES : head.size])
        )
        n = int(tail.events.starts[-1])
        times = tail.events.timestamps[:n]
        # An event whose clock was ahead has a time after it became known, and must not drive out all others.
        happened = np.minimum(times, tail.events.known[:n])
        newest = max(int(happened.max()) if n else NOTHING_SEALED, head.sealed)
        oldest = max(newest - retention_us(self._spec), NOTHING_SEALED)
        late = int(np.searchsorted(times, head.sealed, side="right"))
        if not self._merge(key, change, tail, late, oldest):
            return None
        kept = max(late, int(np.searchsorted(times, oldest)))
        if kept > late:
            change.dropped = max(change.dropped, int(times[kept - 1]))
        kept = self._seal(change, tail, kept, n)
        if not self._begin_index(key, change):
            return None
        new_head, body = self._packed(change, tail, kept, n)
        return self._call(key, state, change, new_head + body)

    def _merge(self, key: bytes, change: _Change, tail: Decoded, late: int, oldest: int) -> bool:
        """Late events into the chunks where they belong, old chunks out. False: a part is gone, so is the state."""
        times = tail.events.timestamps[:late]
        first = int(np.searchsorted(times, oldest))
        if first:
            change.dropped = max(change.dropped, int(times[first - 1]))
        while True:
            words = change.nodes.words
            if not len(words):
                return True
            wanted = words[:, LAST] < oldest
            homes = np.maximum(np.searchsorted(words[:, FIRST], times[first:], side="right") - 1, 0)
            wanted[homes] = True
            wanted &= words[:, LEVEL] > 0
            if not wanted.any():
                break
            parts = fetch_parts(self._client, key, words[wanted, PART].tolist())
            if parts is None:
                return False
            change.gone += parts
            change.nodes = expanded(self._spec, change.nodes, parts)
        return self._merge_chunks(key, change, tail, slice(first, late), homes, oldest)

    def _merge_chunks(
        self, key: bytes, change: _Change, tail: Decoded, late: slice, homes: Integers, oldest: int
    ) -> bool:
        nodes, wanted = change.nodes, sorted(set(homes.tolist()))
        names = nodes.words[wanted, PART].tolist()
        parts = fetch_parts(self._client, key, names) if names else {}
        if parts is None:
            return False
        several: list[Nodes] = []
        for i in range(len(nodes)):
            name = int(nodes.words[i, PART])
            if i in wanted:
                own = np.flatnonzero(homes == i) + late.start
                several += self._merged(change, nodes[i : i + 1], parts[name], tail, own)
            elif nodes.words[i, LAST] < oldest:
                change.dropped = max(change.dropped, int(nodes.words[i, LAST]))
                change.remove(name)
            else:
                several.append(nodes[i : i + 1])
        change.nodes = tree.join(self._spec, several)
        return True

    def _merged(
        self, change: _Change, node: Nodes, chunk: bytes, tail: Decoded, own: Integers
    ) -> list[Nodes]:
        events = tail.events
        added, _ = pack_records(
            self._spec, events.timestamps[own], events.known[own], tail.numbers[own],
            np.ascontiguousarray(events.values[:, own]),
        )  # fmt: skip
        both = decode(self._spec, [chunk + added.tobytes()])
        n = int(both.events.starts[-1])
        if n == int(node.words[0, tree.COUNT]):
            before = decode(self._spec, [chunk]).events
            if np.array_equal(before.known[:n], both.events.known[:n]):
                return [node]
        change.remove(int(node.words[0, PART]))
        times = both.events.timestamps[:n]
        cuts = _cuts(times, 0, n - self._sizes.chunk, self._sizes.chunk)
        return change.chunks(both, cuts if cuts[-1] == n else [*cuts, n])

    def _seal(self, change: _Change, tail: Decoded, kept: int, n: int) -> int:
        """Seal what is worth it of the tail from ``kept`` on; returns from where it stays."""
        size, fresh = self._sizes.chunk, self._sizes.fresh
        if self._spec.corrected or n - kept < 2 * size + fresh:
            return kept
        cuts = _cuts(tail.events.timestamps[:n], kept, n - fresh, size)
        change.nodes = tree.join(self._spec, [change.nodes, *change.chunks(tail, cuts)])
        return cuts[-1]

    def _begin_index(self, key: bytes, change: _Change) -> bool:
        """Have a state whose distinct values are too many to read begin an index of them. False: a part is gone."""
        columns, since, words = distinct_columns(self._spec), change.index_from, change.nodes.words
        size = int(words[words[:, LAST] >= since, COUNT].sum()) * typical_width(self._spec)
        if not columns or not len(words) or change.indices or size < self._sizes.indexed:
            return True
        change.indices, nodes = len(columns), change.nodes
        while (wanted := (nodes.words[:, LEVEL] > 0) & (nodes.words[:, LAST] >= since)).any():
            parts = fetch_parts(self._client, key, nodes.words[wanted, PART].tolist())
            if parts is None:
                return False
            nodes = expanded(self._spec, nodes, parts)
        names = nodes.words[nodes.words[:, LAST] >= since, PART].tolist()
        before = [name for name in names if name not in change.added]
        parts = fetch_parts(self._client, key, before) if before else {}
        if parts is None:
            return False
        events = decode(self._spec, [b"".join(parts.values())]).events
        n = int(events.starts[-1])
        change.sealed_events.append((events.timestamps[:n], events.values[:, :n]))
        return True

    def _packed(self, change: _Change, tail: Decoded, kept: int, n: int) -> tuple[bytes, bytes]:
        events = tail.events
        content, _ = pack_records(
            self._spec, events.timestamps[kept:n], events.known[kept:n], tail.numbers[kept:n],
            np.ascontiguousarray(events.values[:, kept:n]), tail.void[kept:n],
        )  # fmt: skip
        change.nodes = change.grouped(change.nodes)
        nodes, room = change.nodes.packed(), self._sizes.room(typical_width(self._spec))
        size, body = HEAD_BYTES + len(nodes), len(content)
        grown = 2 * body if self._spec.corrected else max(min(2 * body, room), body + room // 4)
        head = replace(
            change.head,
            dropped=change.dropped,
            generation=change.head.generation + 1,
            size=size,
            sealed=change.sealed,
            late=0,
            distinct=change.indices if nodes else 0,
            compact_at=size + max(self._sizes.quiet, grown),
        )
        return head.packed(), nodes + content.tobytes()

    def _call(self, key: bytes, state: bytes, change: _Change, new: bytes) -> bytes:
        parts: list[bytes | int] = [change.head.generation, len(state), new, self._expiry, len(change.added)]
        for name, content in change.added.items():
            parts += [name, content]
        parts += [len(change.gone), *change.gone]
        if change.indices and len(change.nodes):
            parts += index_entries(self._spec, change.sealed_events, change.index_from)
        return script("commit").call([bulk(key)], list(map(bulk, parts)), len(parts))


def expanded(spec: ViewSpec, nodes: Nodes, parts: Parts) -> Nodes:
    """The nodes with those whose content is in ``parts`` replaced by it."""
    several, begin = [], 0
    for i, name in enumerate(nodes.words[:, PART].tolist()):
        if name in parts:
            several += [nodes[begin:i], tree.unpack(spec, parts[name])]
            begin = i + 1
    return tree.join(spec, [*several, nodes[begin:]])
