"""The meaning of a window, as slowly and plainly as it can be said. Shares no code with the engine.

An event is a dict: ``id`` text, ``order`` (the unsigned number of its id), ``key`` anything, ``time`` and ``known`` in
microseconds, and values by column (int, text or None).
"""

import math


def counted(events, key, instant, window, delay, known_as_of, where=lambda event: True):
    """The events that a window holds, by time, then by the unsigned number of their id; each id once."""
    inside = {}
    for event in events:
        if event["key"] != key or not where(event):
            continue
        if not instant - delay - window <= event["time"] < instant - delay:
            continue
        if not event["known"] < known_as_of:
            continue
        inside.setdefault(event["id"], event)
    return sorted(inside.values(), key=lambda event: (event["time"], event["order"]))


def aggregate(function, column, events, instant):
    """One aggregate of counted events; None is null."""
    values = [event[column] for event in events if column and event[column] is not None]
    if function == "count":
        return len(events)
    if function == "sum":
        return sum(values)
    if function == "count_distinct":
        return len(set(values))
    if function == "seconds_since_last":
        return (instant - events[-1]["time"]) / 1_000_000 if events else None
    if function == "seconds_since_first":
        return (instant - events[0]["time"]) / 1_000_000 if events else None
    if not values:
        return None
    if function == "mean":
        return float(sum(values)) / float(len(values))
    if function == "min":
        return min(values)
    if function == "max":
        return max(values)
    if function == "last":
        return values[-1]
    if function == "first":
        return values[0]
    if function == "std":
        n = len(values)
        if n < 2:
            return None
        squares = n * sum(value * value for value in values) - sum(values) ** 2
        return math.sqrt(float(squares) / float(n * (n - 1)))
    if function.startswith("p"):
        # By nearest rank: the smallest value that at least so many percent of the values do not exceed.
        percent = int(function[1:])
        return middle(
            next(v for v in sorted(values) if 100 * sum(w <= v for w in values) >= percent * len(values))
        )
    raise ValueError(function)


def aggregates(spec, events, instant, known_as_of, key=0):
    """Every output of a view for one key at one instant, in its order; ``events`` are those that pass its filter."""
    return [
        aggregate(
            a.function,
            a.column,
            counted(events, key, instant, a.window_us, spec.delay_us, known_as_of),
            instant,
        )
        for a in spec.aggregates
    ]


def newest(versions, known_as_of):
    """Of the versions of each event that were known before an instant, the one known last."""
    last = {}
    for event in sorted(versions, key=lambda event: event["known"]):
        if event["known"] < known_as_of:
            last[event["id"]] = event
    return list(last.values())


def middle(value):
    """What stands for a value in a percentile: itself below 64, else the middle of its 32nd part of a doubling."""
    magnitude = abs(value)
    if magnitude < 64:
        return value
    width = 2 ** (magnitude.bit_length() - 6)
    return (1 if value > 0 else -1) * (magnitude // width * width + width // 2)
