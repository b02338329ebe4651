"""A load generator: HTTP/1.1 over kept-alive connections, raw sockets in one thread, some 25 us a request.

It waits by ``select``, whose time-outs count in microseconds: timers of asyncio and of epoll count in milliseconds, of which
a decision takes less than one. Run it in a process of its own (``measure.in_own_process``).

In a *closed* loop each connection sends as soon as it is answered: it finds how much a server can do. In an *open* loop
requests are due at times drawn beforehand, and latency counts from when a request was due: a server that stalls is charged
with all who wait meanwhile, also with those whom the generator could not even send (no coordinated omission).
"""

import gc
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

_ROOM = 65_536
# How long the last answers may take once nothing more is sent.
_PATIENCE_S = 30.0
_TRIES = 3
_SEED = 20180401


@dataclass(frozen=True)
class Requests:
    """What to send: the lines of ``bodies`` from byte ``start`` on, each the JSON body of one POST to ``path``.

    Attributes:
        expected: bytes that an answer must contain to count as one; empty: any will do.
    """

    host: str
    port: int
    path: str
    bodies: Path
    start: int = 0
    expected: bytes = b""


@dataclass(frozen=True)
class Load:
    """What came of it.

    Attributes:
        seconds: from the first request to the last answer.
        latencies_s: float64 of every answer 200 that was as expected, in order of the answers.
        others: other answers by status; 200 stands for those that lacked what was expected.
        end: byte of the bodies at which the next load may start. cpu_s: processor time of the generator.
    """

    seconds: float
    latencies_s: NDArray[np.float64]
    others: dict[int, int]
    end: int
    cpu_s: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies_s) / self.seconds


def closed_loop(requests: Requests, connections: int, seconds: float) -> Load:
    """Send on every connection as soon as it is answered, for so long."""
    with _Generator(requests, connections) as generator:
        return generator.closed(seconds)


def open_loop(requests: Requests, connections: int, rate: float, seconds: float) -> Load:
    """Send at ``rate`` a second on average, at random times as independent senders do (Poisson; seeded), for so long.

    Args:
        connections: as many requests are under way at most; what is due beyond them waits, and its latency counts.
    """
    gaps = np.random.default_rng(_SEED).exponential(1 / rate, round(rate * seconds))
    with _Generator(requests, connections) as generator:
        return generator.open(np.cumsum(gaps).tolist())


class _Connection:
    """One request at a time; ``due`` is when it was due, by the generator's clock."""

    __slots__ = ("address", "data", "due", "request", "socket", "tries")

    def __init__(self, address: tuple[str, int]) -> None:
        self.address, self.data, self.due, self.request, self.tries = address, b"", 0.0, b"", 0
        self.socket = self._connected()

    def send(self, request: bytes, due: float) -> None:
        self.request, self.due, self.data, self.tries = request, due, b"", 1
        try:
            self.socket.sendall(request)
        except ConnectionError:
            self._again()

    def receive(self) -> bytes | None:
        """The whole answer, None while it is not there."""
        try:
            chunk = self.socket.recv(_ROOM)
        except ConnectionError:
            chunk = b""
        if not chunk:
            self._again()
            return None
        self.data = self.data + chunk if self.data else chunk
        end = self.data.find(b"\r\n\r\n")
        if end < 0 or len(self.data) < end + 4 + _length(self.data, end):
            return None
        return self.data

    def _connected(self) -> socket.socket:
        found = socket.create_connection(self.address, timeout=_PATIENCE_S)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return found

    def _again(self) -> None:
        """A server closes connections that were idle for long: what was sent on one is sent again on another."""
        self.socket.close()
        self.tries += 1
        if self.tries > _TRIES:
            raise ConnectionError(
                f"port {self.address[1]}: it closed {_TRIES} connections without an answer; see its log"
            )
        self.socket, self.data = self._connected(), b""
        self.socket.sendall(self.request)


def _length(data: bytes, end: int) -> int:
    head = data[:end].lower()
    at = head.find(b"content-length:")
    if at < 0:
        raise ValueError(f"answer without a content length: {head!r}")
    return int(head[at + 15 :].split(b"\r\n", 1)[0])


class _Generator:
    def __init__(self, requests: Requests, connections: int) -> None:
        self._wanted = requests
        address = (requests.host, requests.port)
        self._idle = [_Connection(address) for _ in range(connections)]
        self._busy: dict[socket.socket, _Connection] = {}
        self._latencies: list[float] = []
        self._others: Counter[int] = Counter()
        self._end = requests.start
        self._clock = time.perf_counter

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        gc.enable()
        for connection in (*self._idle, *self._busy.values()):
            connection.socket.close()

    def closed(self, seconds: float) -> Load:
        bodies, begun, cpu = self._bodies(), self._begin(), time.process_time()
        last = begun + seconds
        while True:
            while self._idle and (now := self._clock()) < last:
                self._send(next(bodies), now)
            if not self._busy:
                return self._finished(begun, cpu)
            self._receive(_PATIENCE_S)

    def open(self, offsets: list[float]) -> Load:
        bodies, begun, cpu = self._bodies(), self._begin(), time.process_time()
        at, count = 0, len(offsets)
        while True:
            now = self._clock() - begun
            while at < count and self._idle and offsets[at] <= now:
                self._send(next(bodies), begun + offsets[at])
                at += 1
            if at == count and not self._busy:
                return self._finished(begun, cpu)
            waits = at < count and self._idle
            self._receive(max(0.0, begun + offsets[at] - self._clock()) if waits else _PATIENCE_S)

    def _bodies(self) -> Iterator[bytes]:
        wanted = self._wanted
        head = (
            f"POST {wanted.path} HTTP/1.1\r\nHost: {wanted.host}:{wanted.port}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        with wanted.bodies.open("rb") as file:
            file.seek(wanted.start)
            for line in file:
                self._end += len(line)
                yield b"%b%d\r\n\r\n%b" % (head, len(line), line)
        raise ValueError(f"{wanted.bodies}: all of its requests were sent; make more of them")

    def _begin(self) -> float:
        # A collection of this process's garbage would be charged to the server.
        gc.collect()
        gc.freeze()
        gc.disable()
        return self._clock()

    def _send(self, request: bytes, due: float) -> None:
        # The one that was used last: those that are not needed stay idle, and the fewer there are to wait for.
        connection = self._idle.pop()
        connection.send(request, due)
        self._busy[connection.socket] = connection

    def _receive(self, timeout_s: float) -> None:
        ready, _, _ = select.select(self._busy, [], [], timeout_s)
        if not ready and timeout_s == _PATIENCE_S:
            raise TimeoutError(f"port {self._wanted.port}: no answer within {_PATIENCE_S:.0f} s")
        for each in ready:
            connection = self._busy.pop(each)
            answer = connection.receive()
            if answer is None:
                self._busy[connection.socket] = connection
                continue
            now = self._clock()
            status = int(answer[9:12])
            if status == 200 and self._wanted.expected in answer:
                self._latencies.append(now - connection.due)
            else:
                self._others[status] += 1
            self._idle.append(connection)

    def _finished(self, begun: float, cpu: float) -> Load:
        seconds, cpu = self._clock() - begun, time.process_time() - cpu
        return Load(seconds, np.array(self._latencies), dict(self._others), self._end, cpu)
