"""The simulator's kinds of fraud, one row each in ``KINDS``.

Two ways to commit one: *added* frauds are transactions of the thief's own, *turned* ones are transactions of the
ordinary stream that were not the customer's after all. None can be told from its own amount and time alone with any
certainty; each shows against what the customer or the terminal did before.

=====================  =====================================================================================
stolen card            three to eight purchases within two hours of a night, far from home, rather large
compromised terminal   for three to six weeks half of a terminal's transactions are fraud, of ordinary amounts
account take-over      for some days most of a customer's transactions are three to six times the usual amount
card testing           a few amounts around a dollar online within minutes, then one or two large ones
=====================  =====================================================================================
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipelines.simulated_world import CITIES, DAY_US, HOUR_US, Events, Ints, World

__all__ = ["KINDS", "Kind", "commit"]

_MINUTE_US = HOUR_US // 60


@dataclass(frozen=True)
class Kind:
    """One kind of fraud: its share of all frauds, and how ``size`` of them are added or turned.

    ``add(rng, world, days_us, size)`` returns exactly ``size`` events; ``turn(rng, world, events, days_us, size)``
    changes about ``size`` of the events in place and returns their rows. A kind has one of the two.
    """

    name: str
    share: float
    add: Callable[[np.random.Generator, World, int, int], Events] | None = None
    turn: Callable[[np.random.Generator, World, Events, int, int], Ints] | None = None


def commit(rng: np.random.Generator, world: World, genuine: Events, days_us: int, frauds: int) -> Events:
    """The genuine events, some of them turned, the last ones replaced by those added: as many as before."""
    parts = [genuine]
    for number, kind in enumerate(KINDS, start=1):
        size = round(frauds * kind.share)
        if kind.add is not None and size:
            added = kind.add(rng, world, days_us, size)
            added.kind[:] = number
            parts.append(added)
    kept = len(genuine) - sum(len(part) for part in parts[1:])
    parts[0] = genuine.taken(np.arange(max(kept, 0)))
    for number, kind in enumerate(KINDS, start=1):
        if kind.turn is not None:
            rows = kind.turn(rng, world, parts[0], days_us, round(frauds * kind.share))
            parts[0].kind[rows] = number
    return Events.joined(parts)


def _stolen_cards(rng: np.random.Generator, world: World, days_us: int, size: int) -> Events:
    owner, episode = _episodes(rng, size, 3, 8)
    customer = _victims(rng, world, owner)[episode]
    home = world.customer_city[customer]
    away = (home + rng.integers(1, len(CITIES), owner)[episode]) % len(CITIES)
    night = rng.integers(0, max(days_us // DAY_US, 1), owner) * DAY_US + rng.integers(0, 4 * HOUR_US, owner)
    at = world.utc(away, night[episode] + rng.integers(0, 2 * HOUR_US, size))
    terminal = world.local_terminals(rng, away)
    usd = world.ordinary_amounts(rng, customer, terminal) * 1.8
    return Events(customer, terminal, at, usd, np.zeros(size, dtype=np.int64))


def _card_testing(rng: np.random.Generator, world: World, days_us: int, size: int) -> Events:
    owner, episode = _episodes(rng, size, 4, 7)
    customer = _victims(rng, world, owner)[episode]
    place = np.arange(size) - np.searchsorted(episode, episode)
    of_episode = np.bincount(episode, minlength=owner)[episode]
    is_large = (of_episode > 2) & (place >= of_episode - 1 - (episode % 2))
    begin = rng.integers(0, max(days_us - 6 * HOUR_US, 1), owner)[episode]
    later, soon = rng.integers(30 * _MINUTE_US, 5 * HOUR_US, size), rng.integers(0, 20 * _MINUTE_US, size)
    wait = np.where(is_large, later, soon)
    terminal = world.online[rng.integers(0, len(world.online), size)]
    large = world.amount[customer] * rng.uniform(4.0, 9.0, size)
    usd = np.where(is_large, large, rng.uniform(0.5, 2.0, size))
    return Events(customer, terminal, begin + wait, usd, np.zeros(size, dtype=np.int64))


def _compromised_terminals(
    rng: np.random.Generator, world: World, events: Events, days_us: int, size: int
) -> Ints:
    length = rng.integers(21 * DAY_US, 42 * DAY_US, len(world.popularity))
    # Very popular terminals are watched: a compromise lasts at middling ones.
    custom = np.bincount(events.terminal, minlength=len(world.popularity))
    middling = np.flatnonzero((custom > 0) & (custom <= np.quantile(custom, 0.95)))
    return _turned(rng, events, events.terminal, middling, length, days_us, size, 0.5)


def _take_overs(rng: np.random.Generator, world: World, events: Events, days_us: int, size: int) -> Ints:
    length = rng.integers(3 * DAY_US, 8 * DAY_US, len(world.activity))
    customers = np.arange(len(world.activity))
    rows = _turned(rng, events, events.customer, customers, length, days_us, size, 0.8)
    events.usd[rows] *= rng.uniform(3.0, 6.0, len(rows))
    events.terminal[rows] = world.local_terminals(rng, world.customer_city[events.customer[rows]])
    return rows


def _turned(
    rng: np.random.Generator,
    events: Events,
    owner: Ints,
    candidates: Ints,
    length_us: Ints,
    days_us: int,
    size: int,
    share: float,
) -> Ints:
    """About ``size`` rows: of some candidates, ``share`` of what each did in a time of its own."""
    begin = rng.integers(-DAY_US, days_us, len(length_us))
    within = (events.at_us >= begin[owner]) & (events.at_us < (begin + length_us)[owner])
    hit = within & (events.kind == 0) & (rng.random(len(events)) < share)
    counts = np.bincount(owner[hit], minlength=len(length_us))
    order = rng.permutation(candidates)
    enough = int(np.searchsorted(np.cumsum(counts[order]), size, side="left")) + 1
    chosen = np.zeros(len(length_us), dtype=np.bool_)
    chosen[order[: enough if size else 0]] = True
    return np.flatnonzero(hit & chosen[owner])


def _episodes(rng: np.random.Generator, size: int, least: int, most: int) -> tuple[int, Ints]:
    """How many episodes ``size`` events make, and the episode of each event, ascending."""
    lengths = rng.integers(least, most + 1, size // least + 1)
    episode = np.repeat(np.arange(len(lengths)), lengths)[:size]
    return int(episode[-1]) + 1, episode


def _victims(rng: np.random.Generator, world: World, size: int) -> Ints:
    return rng.integers(0, len(world.activity), size)


KINDS = (
    Kind("stolen card", 0.30, add=_stolen_cards),
    Kind("compromised terminal", 0.35, turn=_compromised_terminals),
    Kind("account take-over", 0.20, turn=_take_overs),
    Kind("card testing", 0.15, add=_card_testing),
)
