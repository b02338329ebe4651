"""Windows of a state with sealed events: summaries of what lies inside, records of what lies at the edges.

A node is looked into if an edge of a window falls between its events, if some of them were not known yet, or if a late event
may belong, or be known already, among them. Everything else counts by its summary, or not at all. That takes a round trip a
level of the tree.

Distinct values over many sealed events come from an index beside the state, the last event time of each value. It tells what it
needs to of windows that end after the last sealed event, all of it known. For other windows (of views with a delay, or asked with
old knowledge), and while there is no index, the chunks inside are read: as exact, only slower.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.windows import nodes as tree
from feature_repo.windows.compaction import expanded, fetch_parts
from feature_repo.windows.decoding import Decoded, Decoder
from feature_repo.windows.distinct import distinct_columns, distinct_reach_us
from feature_repo.windows.evaluate import Asks, Events, Integers, evaluate
from feature_repo.windows.functions import COUNT_DISTINCT
from feature_repo.windows.head import HEAD_BYTES, Head
from feature_repo.windows.kernel import NULL
from feature_repo.windows.keys import distinct_key
from feature_repo.windows.nodes import COUNT, FIRST, KNOWN, LAST, LEVEL, PART, Nodes
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.wire import bulk, checked, command, exchange

Flags = NDArray[np.bool_]


class CompactedError(Exception):
    """The state was compacted after it was read; read it again."""


@dataclass(frozen=True)
class Question:
    """What is asked of one key, microseconds."""

    instant: int
    known_as_of: int


class HotView:
    """Answers one view for keys with sealed events."""

    def __init__(self, spec: ViewSpec) -> None:
        self._spec = spec
        names = {a.name for a in spec.aggregates if a.row.code == COUNT_DISTINCT}
        self._rest = _Part(spec, {a.name for a in spec.aggregates} - names)
        self._distinct = _Part(spec, names)
        self._indexed = distinct_columns(spec)
        self._longest = distinct_reach_us(spec)
        edges = sorted({spec.delay_us, *(spec.delay_us + window for window in spec.windows_us)}, reverse=True)
        self._edges = np.array(edges, dtype=np.int64)
        self._decoder = Decoder([spec])

    def windows(self, client: Any, key: bytes, state: bytes, question: Question) -> tuple[Integers, int]:
        """The view's aggregates of one state.

        Returns:
            int64[a] results, and how many events the state held.

        Raises:
            CompactedError: see there. redis.RedisError: no answer.
        """
        spec, head = self._spec, Head.of(state)
        nodes = tree.unpack(spec, state[HEAD_BYTES : head.size])
        tail = self._decoder.one([state[head.size :]])
        times = tail.events.timestamps[: tail.events.starts[-1]]
        late = times[times <= head.sealed]
        by_index = self._index_tells(head, nodes, question)
        total, opened = int(nodes.words[:, COUNT].sum()), 0
        chunks: list[tuple[int, bytes]] = []
        while (wanted := self._to_open(nodes, late, question, by_index)).any():
            parts = fetch_parts(client, key, nodes.words[wanted, PART].tolist())
            if parts is None:
                raise CompactedError
            bottom = wanted & (nodes.words[:, LEVEL] == 0)
            own = nodes.words[bottom]
            chunks += zip(own[:, FIRST].tolist(), map(parts.pop, own[:, PART].tolist()), strict=True)
            opened += int(own[:, COUNT].sum())
            nodes = expanded(spec, _those(nodes, ~bottom), parts)
        # In order of time, so that nothing is left to be sorted unless events are late.
        content = [chunk for _, chunk in sorted(chunks)]
        raw = self._decoder.one([b"".join([*content, state[head.size :]])]) if chunks else tail
        out = np.empty(len(spec.aggregates), dtype=np.int64)
        if len(self._rest.places):
            self._summarized(raw.events, _those(nodes, self._inside(nodes, question)), question, out)
        if len(self._distinct.places):
            if by_index:
                self._count_distinct(client, key, head, tail, question, out)
            else:
                self._distinct.evaluate(raw.events, question, out)
        return out, total - opened + int(raw.events.starts[-1])

    def warm(self) -> None:
        """Answer of one event, and of one that is sealed, so that all that is compiled is there."""
        spec, zero = self._spec, np.zeros(1, dtype=np.int64)
        event = Events(zero, zero, np.zeros((len(spec.columns), 1), dtype=np.int64), np.array([0, 1]))
        out = np.empty(len(spec.aggregates), dtype=np.int64)
        self._decoder.one([b""])
        for part in (self._rest, self._distinct):
            part.evaluate(event, Question(1, 1), out)
        self._summarized(event, tree.of_events(spec, event, event.starts, [0]), Question(1, 1), out)

    def _inside(self, nodes: Nodes, question: Question, window: int | None = None) -> Flags:
        end = question.instant - self._spec.delay_us
        begin = end - (self._spec.windows_us[-1] if window is None else window)
        return (nodes.words[:, LAST] >= begin) & (nodes.words[:, FIRST] < end)

    def _to_open(self, nodes: Nodes, late: Integers, question: Question, by_index: bool) -> Flags:
        """Which nodes to look into, bool[b]."""
        first, last = nodes.words[:, FIRST], nodes.words[:, LAST]
        edges = question.instant - self._edges
        wanted: Flags = np.searchsorted(edges, first, side="right") != np.searchsorted(
            edges, last, side="right"
        )
        wanted |= self._inside(nodes, question) & (nodes.words[:, KNOWN] >= question.known_as_of)
        if len(late):
            wanted |= np.searchsorted(late, first) < np.searchsorted(late, last, side="right")
        if self._longest and not by_index:
            wanted |= self._inside(nodes, question, self._longest)
        return wanted

    def _index_tells(self, head: Head, nodes: Nodes, question: Question) -> bool:
        if not self._indexed or head.distinct != len(self._indexed) or question.instant <= head.sealed:
            return False
        inside = self._inside(nodes, question, self._longest)
        return not (inside & (nodes.words[:, KNOWN] >= question.known_as_of)).any()

    def _summarized(self, events: Events, nodes: Nodes, question: Question, out: Integers) -> None:
        """All but distinct counts: whatever lies between two edges of windows becomes few rows before the kernel sees it."""
        edges = question.instant - self._edges
        n = int(events.starts[-1])
        counts = np.flatnonzero(
            (events.known[:n] < question.known_as_of) & (events.timestamps[:n] >= edges[0])
        )
        several = []
        if len(counts):
            times = events.timestamps[counts]
            known = Events(times, events.known[counts], events.values[:, counts], np.array([0, len(counts)]))
            # A run ends at an edge, and where nodes lie between two events.
            runs = np.searchsorted(edges, times, side="right") + np.searchsorted(nodes.words[:, FIRST], times)
            starts = _starts(runs)
            several.append(tree.of_events(self._spec, known, starts, range(len(starts) - 1)))
        if len(nodes):
            firsts = nodes.words[:, FIRST]
            between = np.searchsorted(events.timestamps[counts], firsts)
            several.append(
                tree.merged(
                    self._spec, nodes, _starts(np.searchsorted(edges, firsts, side="right") + between)
                )
            )
        found = tree.join(self._spec, several)
        order = np.argsort(found.words[:, FIRST], kind="stable")
        found = Nodes(
            found.words[order], tuple(found.histograms[i] for i in order) if found.histograms else ()
        )
        self._rest.evaluate(_as_rows(self._spec, found), question, out)

    def _count_distinct(
        self, client: Any, key: bytes, head: Head, tail: Decoded, question: Question, out: Integers
    ) -> None:
        """Distinct counts by the index: the sealed values of each window, and the tail's that are not among them."""
        columns = self._indexed
        asked = [
            (place, columns.index(int(c)), int(c), question.instant - self._spec.windows_us[w])
            for place, (function, c, w) in enumerate(self._spec.program)
            if function == COUNT_DISTINCT
        ]
        events, n = tail.events, int(tail.events.starts[-1])
        times = events.timestamps[:n]
        counts = (times >= question.instant - self._longest) & (times < question.instant)
        counts &= events.known[:n] < question.known_as_of
        own = [_newest(times[counts], events.values[c, :n][counts]) for c in columns]
        commands = [command("MULTI"), command("GETRANGE", key, 0, HEAD_BYTES - 1)]
        commands += [command("ZCOUNT", distinct_key(key, z), begin, "+inf") for _, z, _, begin in asked]
        for z, (values, _) in enumerate(own):
            if len(values):
                commands.append(_scores_of(distinct_key(key, z), values))
        (start, *found) = checked(exchange(client, [*commands, command("EXEC")]))[-1]
        if not start or Head.of(start).generation != head.generation:
            raise CompactedError
        answers = iter(found[len(asked) :])
        scores = [_scores(next(answers)) if len(values) else np.empty(0) for values, _ in own]
        for (place, z, _, begin), count in zip(asked, found, strict=False):
            out[place] = int(count) + int(((own[z][1] >= begin) & ~(scores[z] >= begin)).sum())


class _Part:
    """Some of a view's aggregates: their plan, and where their results stand."""

    def __init__(self, spec: ViewSpec, names: set[str]) -> None:
        self._spec = spec.only(names)
        self.places = np.array([i for i, a in enumerate(spec.aggregates) if a.name in names], dtype=np.int64)
        columns = [spec.columns.index(column) for column in self._spec.columns]
        self._columns = None if columns == list(range(len(spec.columns))) else columns

    def evaluate(self, events: Events, question: Question, out: Integers) -> None:
        """Fill the part's places of ``out`` from rows of the whole view's columns."""
        values, blocks = events.values, events.blocks
        if self._columns is not None:
            values = values[self._columns]
            blocks = None if blocks is None else tree.of_columns(blocks, self._columns)
        own = replace(events, values=np.ascontiguousarray(values), blocks=blocks)
        one = np.array([0, 1], dtype=np.int64)
        asks = Asks(np.array([question.instant]), np.array([question.known_as_of]), one, one[:1])
        found = np.empty((1, len(self.places)), dtype=np.int64)
        evaluate(self._spec, own, asks, range(1), found)
        out[self.places] = found[0]


def _those(nodes: Nodes, which: Flags) -> Nodes:
    histograms = (
        tuple(h for h, keep in zip(nodes.histograms, which, strict=True) if keep) if nodes.histograms else ()
    )
    return Nodes(nodes.words[which], histograms)


def _starts(runs: Integers) -> Integers:
    """Where each run of equal numbers begins, and the end."""
    return np.concatenate([[0], np.flatnonzero(np.diff(runs)) + 1, [len(runs)]]).astype(np.int64)


def _as_rows(spec: ViewSpec, nodes: Nodes) -> Events:
    return Events(
        timestamps=np.ascontiguousarray(nodes.words[:, FIRST]),
        known=np.ascontiguousarray(nodes.words[:, KNOWN]),
        values=np.full((len(spec.columns), len(nodes)), NULL, dtype=np.int64),
        starts=np.array([0, len(nodes)], dtype=np.int64),
        blocks=tree.as_blocks(spec, nodes, np.arange(len(nodes), dtype=np.int64)),
    )


def _newest(times: Integers, values: Integers) -> tuple[Integers, Integers]:
    """The distinct values that are not null, and the last time of each; times ascend."""
    there = values != NULL
    found, backwards = np.unique(values[there][::-1], return_index=True)
    return found, times[there][::-1][backwards]


def _scores_of(index: bytes, values: Integers) -> bytes:
    """The command that asks for the times of values: hundreds, so they are packed at once."""
    members = np.empty((len(values), 13), dtype=np.uint8)
    members[:, :4], members[:, 11:] = (
        np.frombuffer(b"$7\r\n", dtype=np.uint8),
        np.frombuffer(b"\r\n", dtype=np.uint8),
    )
    members[:, 4:11] = values.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :7]
    return b"*%d\r\n$7\r\nZMSCORE\r\n%b%b" % (2 + len(values), bulk(index), members.tobytes())


def _scores(answers: list[Any]) -> Any:
    return np.array([float("-inf") if score is None else float(score) for score in answers])
