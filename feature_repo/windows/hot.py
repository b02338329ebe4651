"""Windows of a state with sealed events: summaries of what lies inside, records of what lies at the edges.

A node is looked into if an edge of a window falls between its events, if some of them were not known yet, or if a late event
may belong, or be known already, among them. Everything else counts by its summary, or not at all. That takes a round trip a
level of the tree.

Distinct values over sealed events come from an index beside the state, the last event time of each value. It tells what it needs
to of windows that end after the last sealed event, all of it known. For other windows (of views with a delay, or asked with
old knowledge) the chunks inside are read: as exact, only slower.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from feature_repo.windows import nodes as tree
from feature_repo.windows.compaction import distinct_columns, expanded, fetch_parts
from feature_repo.windows.evaluate import Asks, Events, Integers, evaluate
from feature_repo.windows.functions import COUNT_DISTINCT
from feature_repo.windows.head import HEAD_BYTES, Head
from feature_repo.windows.kernel import NULL
from feature_repo.windows.keys import distinct_key
from feature_repo.windows.nodes import COUNT, FIRST, KNOWN, LAST, LEVEL, PART, Nodes
from feature_repo.windows.records import Decoded, decode
from feature_repo.windows.spec import ViewSpec
from feature_repo.windows.wire import checked, command, exchange


class CompactedError(Exception):
    """The state was compacted after it was read; read it again."""


@dataclass(frozen=True)
class Question:
    """What is asked of one key, microseconds."""

    instant: int
    known_as_of: int


def hot_windows(
    client: Any, spec: ViewSpec, key: bytes, state: bytes, question: Question
) -> tuple[Integers, int]:
    """The view's aggregates of one state with sealed events.

    Returns:
        int64[a] results, and how many events the state held.

    Raises:
        CompactedError: see there. redis.RedisError: no answer.
    """
    head = Head.of(state)
    nodes = tree.unpack(spec, state[HEAD_BYTES : head.size])
    tail = decode(spec, [state[head.size :]])
    times = tail.events.timestamps[: tail.events.starts[-1]]
    late = times[times <= head.sealed]
    by_index = _index_tells(spec, head, nodes, question)
    total = int(nodes.words[:, COUNT].sum())
    chunks: list[bytes] = []
    opened = 0
    while True:
        wanted = _to_open(spec, nodes, late, question, by_index)
        if not wanted.any():
            break
        parts = fetch_parts(client, key, nodes.words[wanted, PART].tolist())
        if parts is None:
            raise CompactedError
        at_bottom = wanted & (nodes.words[:, LEVEL] == 0)
        chunks += [parts.pop(name) for name in nodes.words[at_bottom, PART].tolist()]
        opened += int(nodes.words[at_bottom, COUNT].sum())
        nodes = expanded(spec, _those(nodes, ~at_bottom), parts)
    raw = decode(spec, [b"".join([*chunks, state[head.size :]])])
    nodes = _those(nodes, _inside(spec, nodes, question))
    out = _evaluate(spec, raw, nodes, question)
    if by_index:
        _count_distinct(client, spec, key, head, tail, question, out)
    return out, total - opened + int(raw.events.starts[-1])


def _those(nodes: Nodes, which: Any) -> Nodes:
    histograms = (
        tuple(h for h, keep in zip(nodes.histograms, which, strict=True) if keep) if nodes.histograms else ()
    )
    return Nodes(nodes.words[which], histograms)


def _inside(spec: ViewSpec, nodes: Nodes, question: Question, window: int | None = None) -> Any:
    end = question.instant - spec.delay_us
    begin = end - (spec.windows_us[-1] if window is None else window)
    return (nodes.words[:, LAST] >= begin) & (nodes.words[:, FIRST] < end)


def _to_open(spec: ViewSpec, nodes: Nodes, late: Integers, question: Question, by_index: bool) -> Any:
    """Which nodes to look into, bool[b]."""
    first, last = nodes.words[:, FIRST], nodes.words[:, LAST]
    end = question.instant - spec.delay_us
    edges = np.array([end, *(end - window for window in spec.windows_us)], dtype=np.int64)
    wanted = ((first[:, None] < edges) & (edges <= last[:, None])).any(axis=1)
    wanted |= _inside(spec, nodes, question) & (nodes.words[:, KNOWN] >= question.known_as_of)
    if len(late):
        wanted |= np.searchsorted(late, first) < np.searchsorted(late, last, side="right")
    longest = _longest_distinct(spec)
    if longest and not by_index:
        wanted |= _inside(spec, nodes, question, longest)
    return wanted


def _longest_distinct(spec: ViewSpec) -> int:
    return max(
        (spec.windows_us[w] for function, _, w in spec.program if function == COUNT_DISTINCT), default=0
    )


def _index_tells(spec: ViewSpec, head: Head, nodes: Nodes, question: Question) -> bool:
    columns = distinct_columns(spec)
    if not columns or head.distinct != len(columns) or question.instant <= head.sealed:
        return False
    inside = _inside(spec, nodes, question, _longest_distinct(spec))
    return not (inside & (nodes.words[:, KNOWN] >= question.known_as_of)).any()


def _evaluate(spec: ViewSpec, raw: Decoded, nodes: Nodes, question: Question) -> Integers:
    """The kernel over records and summaries, put in order of time; int64[a]."""
    n, b = int(raw.events.starts[-1]), len(nodes)
    times = np.concatenate([raw.events.timestamps[:n], nodes.words[:, FIRST]])
    order = np.argsort(times, kind="stable")
    nothing = np.full((len(spec.columns), b), NULL, dtype=np.int64)
    values = np.concatenate([raw.events.values[:, :n], nothing], axis=1)
    index = np.concatenate([np.full(n, -1, dtype=np.int64), np.arange(b, dtype=np.int64)])
    events = Events(
        timestamps=times[order],
        known=np.concatenate([raw.events.known[:n], nodes.words[:, KNOWN]])[order],
        values=np.ascontiguousarray(values[:, order]),
        starts=np.array([0, n + b], dtype=np.int64),
        blocks=tree.as_blocks(spec, nodes, index[order]),
    )
    one = np.array([0, 1], dtype=np.int64)
    asks = Asks(np.array([question.instant]), np.array([question.known_as_of]), one, one[:1])
    out = np.empty((1, len(spec.aggregates)), dtype=np.int64)
    evaluate(spec, events, asks, range(1), out)
    found: Integers = out[0]
    return found


def _count_distinct(
    client: Any, spec: ViewSpec, key: bytes, head: Head, tail: Decoded, question: Question, out: Integers
) -> None:
    """Distinct counts of ``out`` by the index: the sealed values of each window, and the tail's that are not among them."""
    columns = distinct_columns(spec)
    asked = [
        (place, columns.index(int(c)), int(c), question.instant - spec.windows_us[w])
        for place, (function, c, w) in enumerate(spec.program)
        if function == COUNT_DISTINCT
    ]
    events, n = tail.events, int(tail.events.starts[-1])
    longest = min(begin for *_, begin in asked)
    counts = (events.timestamps[:n] >= longest) & (events.timestamps[:n] < question.instant)
    counts &= events.known[:n] < question.known_as_of
    times, values = events.timestamps[:n][counts], events.values[:, :n][:, counts]
    commands = [command("MULTI"), command("GETRANGE", key, 0, HEAD_BYTES - 1)]
    commands += [command("ZCOUNT", distinct_key(key, z), begin, "+inf") for _, z, _, begin in asked]
    own: dict[int, list[int]] = {}
    for z, c in enumerate(columns):
        own[c] = np.unique(values[c][values[c] != NULL]).tolist()
        if own[c]:
            members = [value.to_bytes(7, "little") for value in own[c]]
            commands.append(command("ZMSCORE", distinct_key(key, z), *members))
    (start, *found) = checked(exchange(client, [*commands, command("EXEC")]))[-1]
    if not start or Head.of(start).generation != head.generation:
        raise CompactedError
    scores = iter(found[len(asked) :])
    sealed = {c: dict(zip(own[c], next(scores), strict=True)) if own[c] else {} for c in columns}
    for (place, _, c, begin), count in zip(asked, found, strict=False):
        fresh = {
            value for time, value in zip(times.tolist(), values[c].tolist(), strict=True) if time >= begin
        }
        new = sum(
            1 for value in fresh if value != NULL and not float(sealed[c].get(value) or "-inf") >= begin
        )
        out[place] = int(count) + new
