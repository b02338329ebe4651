"""A process that delivers events to states, compacts them and reads them, beside others that do the same.

``python -m tests.deliveries SOCKET PROJECT TASK SEED``: it says ``ready``, and goes when it is sent a line.
"""

import random
import sys
import time
from dataclasses import replace

import numpy as np
import redis

from feature_repo.windows.compaction import Compactor
from feature_repo.windows.head import Sizes
from feature_repo.windows.keys import state_key, view_prefix
from feature_repo.windows.reading import StateReader, StateView
from feature_repo.windows.recorder import EventRecorder
from feature_repo.windows.scalars import code
from tests.timelines import SECOND, START, every_function, micros, moment

DAY = 86_400 * SECOND
TINY = Sizes(chunk=3, fresh=1, fanout=2, quiet=0, late=2, indexed=200)
PLAIN = every_function(windows=(7 * SECOND, DAY))
CORRECTED = replace(every_function(where="amount > 0", windows=(7 * SECOND, DAY)), corrected=True)
SPECS = {"plain": PLAIN, "corrected": CORRECTED}


def steady(count, step=SECOND, seed=1, late=0.1):
    """Events of one key, one a step, a few known late."""
    rng = random.Random(seed)
    for n in range(count):
        at = micros(START) + n * step
        known = at + (rng.randrange(90) * SECOND if rng.random() < late else 0)
        amount = None if n % 13 == 0 else rng.randrange(-1000, 10**6)
        place = None if n % 17 == 0 else f"place {rng.randrange(40)}"
        yield {
            "id": f"e{n}", "order": code(f"e{n}"), "key": "a", "time": at, "known": known, "amount": amount,
            "place": place,
        }  # fmt: skip


def to_deliver(kind):
    """What is delivered: each event once, or in up to three versions, some of which no longer pass the filter."""
    for n, event in enumerate(steady(240 if kind == "plain" else 100)):
        yield event
        if kind == "corrected":
            for again in range(n % 3):
                yield {
                    **event,
                    "amount": (-1) ** (n + again) * 10**5,
                    "known": event["known"] + (again + 1) * 20 * SECOND,
                }


def rows_of(events):
    """Events as a recorder takes them."""
    return [{**e, "time": moment(e["time"]), "known": moment(e["known"])} for e in events]


class Halting(Compactor):
    """Says when it has worked out a new state, and does not put it in place before it is sent a line."""

    def _call(self, *args):
        call = super()._call(*args)
        print("halted", flush=True)  # noqa: T201
        sys.stdin.readline()
        return call


class Party:
    """One process's part in the state of one key of one view."""

    def __init__(self, client, project, kind, rng):
        self.spec, self.rng = SPECS[kind], rng
        self.key = state_key(view_prefix(project, self.spec), ["a"])
        self.recorder = EventRecorder.of(client, project, [self.spec], TINY)
        self.compactor = Compactor(client, self.spec, TINY)
        self.reader = StateReader(client, [StateView(self.spec, project, ("key",))])
        self.events, self.seen = list(to_deliver(kind)), 0
        rng.shuffle(self.events)

    def deliver(self):
        """Deliver some events, two of them twice; compact now and then."""
        batch, self.events = self.events[:7], self.events[7:]
        if batch:
            self.recorder.record(self.spec.source, rows_of([*batch, *self.rng.choices(batch, k=2)]))
        if self.rng.random() < 0.5:
            self.compactor.compact([self.key])

    def read(self):
        """What was there once is there for good."""
        end = np.array([micros(START) + DAY])
        ((_, found),), *_ = self.reader.read([{"key": "a"}], end, end)
        if found[0] < self.seen:
            raise AssertionError(f"{self.seen} events were there, and now {found[0]} are")
        self.seen = found[0]


def main(socket, project, task, seed):
    client = redis.Redis(unix_socket_path=socket)
    parties = [Party(client, project, kind, random.Random(seed)) for kind in SPECS]
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    if task == "halt":
        Halting(client, PLAIN, TINY).compact([parties[0].key])
    while task == "deliver" and any(party.events for party in parties):
        for party in parties:
            party.deliver()
    until = time.monotonic() + 2
    while task == "read" and time.monotonic() < until:
        for party in parties:
            party.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
