"""History through the running service, over HTTP: every event when it became known.

What is sent, for a stretch ``[start, end)``:

- each transaction whose event time lies in it: ``POST /v1/score``, when it became known (a late one is sent
  late, maybe after ``end``);
- each transaction of an earlier event time that became known from ``start`` on: ``POST /v1/transactions``;
- each chargeback that was reported from ``start`` on: ``POST /v1/chargebacks``.

The last two go on until ``end``, or until the last of the first is known if that is later: it is decided on all that
was known by then.

Order among equals does not matter, for the service counts an event only strictly after it became known. It
is fixed all the same (transactions by event time and id, then chargebacks); two replays are alike.

One connection is used, one request at a time: latencies are those of a client that waits, and the next event
is sent when the last one is recorded. A request may be sent again, so a lost connection is made anew once. Where the service
asks for an API key, it is taken from ``FRAUD_API_KEY``.
"""

import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import duckdb
import numpy as np

from feature_repo.lake import snapshot
from feature_repo.settings import settings
from pipelines.instants import parse_instant
from pipelines.keys import sent_key
from pipelines.serve import running_service

__all__ = ["Progress", "ReplayReport", "replay", "run_replay"]

Progress = Callable[[str, int, int], None]
"""``progress(step, done, total)``."""

_MICROSECOND = timedelta(microseconds=1)
_PATHS = {"score": "/v1/score", "record": "/v1/transactions", "chargeback": "/v1/chargebacks"}
_EXAMPLES = 5
_PROGRESS_EVERY = 500
_ROWS_AT_ONCE = 10_000


@dataclass
class ReplayReport:
    """What a replay did. Latencies are the client's, of scored transactions, from sending to whole answer.

    Attributes:
        scored: transactions answered with a decision. repeated: of these, answered before already.
        errors: requests answered with anything but 200; ``examples`` has the first few.
        recorded: earlier transactions recorded because they became known in or after the stretch.
        chargebacks: chargebacks recorded.
        p50_ms, p99_ms: None when nothing was scored.
        decisions: scored transactions by decision. degraded: by reason, those not decided by the model.
        seconds: how long it took.
    """

    scored: int = 0
    repeated: int = 0
    errors: int = 0
    recorded: int = 0
    chargebacks: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    decisions: Counter[str] = field(default_factory=Counter)
    degraded: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """1 if a request was refused, or a transaction was decided without the model."""
        return 1 if self.errors or self.degraded else 0

    def summary(self) -> str:
        """What happened, in a few lines."""
        latency = "" if self.p50_ms is None else f", p50 {self.p50_ms:.2f} ms, p99 {self.p99_ms:.2f} ms"
        decided = ", ".join(f"{count:,} {name}" for name, count in sorted(self.decisions.items()))
        lines = [
            f"{self.scored:,} transactions scored in {self.seconds:.1f} s{latency}",
            f"decisions: {decided or 'none'}",
            f"recorded: {self.chargebacks:,} chargebacks, {self.recorded:,} earlier transactions",
        ]
        if self.repeated:
            lines.append(f"answered before: {self.repeated:,}")
        lines += [
            f"not decided by the model: {count:,} ({why})" for why, count in sorted(self.degraded.items())
        ]
        if self.errors:
            lines += [f"errors: {self.errors:,}", *(f"  {example}" for example in self.examples)]
        return "\n".join(lines)


def replay(
    base_url: str,
    lake: Path,
    start: datetime,
    end: datetime,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> ReplayReport:
    """Send a stretch of the lake's events to the service at ``base_url``.

    Args:
        base_url: such as ``http://127.0.0.1:3000``.
        lake: folder of the Delta tables.
        start: first event time, with its zone. end: the first event time no longer replayed.
        limit: score the first so many transactions only, and send nothing after them.
        progress: called now and then with the transactions scored so far.

    Raises:
        ValueError: a time without a zone, or ``end`` not after ``start``.
        FileNotFoundError: there are no transactions in the lake.
        ConnectionError: the service does not answer.
    """
    _check_stretch(start, end)
    report, latencies = ReplayReport(), []
    began = time.perf_counter()
    with duckdb.connect() as database, _Connection(base_url) as service:
        total = _open_events(database, lake, start, end)
        total = total if limit is None else min(limit, total)
        asked = 0
        for kind, body in _requests(database):
            asked += kind == "score"
            if asked > total:
                break
            sent = time.perf_counter_ns()
            status, answer, repeated = service.post(_PATHS[kind], body)
            took_ms = (time.perf_counter_ns() - sent) / 1e6
            _count_answer(report, kind, status, answer, repeated)
            if kind == "score" and status == 200:
                latencies.append(took_ms)
            if progress is not None and kind == "score" and asked % _PROGRESS_EVERY == 0:
                progress("replay", asked, total)
    report.seconds = time.perf_counter() - began
    if latencies:
        report.p50_ms, report.p99_ms = (float(q) for q in np.percentile(latencies, [50, 99]))
    if progress is not None:
        progress("replay", report.scored, total)
    return report


def run_replay(
    start: str,
    end: str,
    url: str | None = None,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> ReplayReport:
    """``fraud replay``: a stretch of the lake through the service at ``url``, or through one of its own.

    Args:
        start: a UTC day, or an instant with its zone, as ISO 8601. end: likewise, exclusive.
        url: a running service; None starts one for the replay.

    Raises:
        ValueError: a time cannot be read, or ``end`` is not after ``start``; nothing is started then.
        ServiceError: the service does not start.
    """
    stretch = (parse_instant(start), parse_instant(end))
    _check_stretch(*stretch)
    here = settings()
    with ExitStack() as stack:
        base_url = url or stack.enter_context(running_service(here.home))
        return replay(base_url, here.lake, *stretch, limit=limit, progress=progress)


def _check_stretch(start: datetime, end: datetime) -> None:
    if start.tzinfo is None or end.tzinfo is None or end <= start:
        raise ValueError(f"replay from {start} to {end}: give two times with their zones, the later one last")


def _count_answer(report: ReplayReport, kind: str, status: int, answer: bytes, repeated: bool) -> None:
    if status != 200:
        report.errors += 1
        if len(report.examples) < _EXAMPLES:
            report.examples.append(f"{_PATHS[kind]}: {status}: {answer[:500].decode(errors='replace')}")
    elif kind == "score":
        decision = json.loads(answer)
        report.scored += 1
        report.repeated += repeated
        report.decisions[decision["decision"]] += 1
        if decision["degraded"] is not None:
            report.degraded[decision["degraded"]] += 1
    elif kind == "record":
        report.recorded += 1
    else:
        report.chargebacks += 1


def _open_events(database: duckdb.DuckDBPyConnection, lake: Path, start: datetime, end: datetime) -> int:
    """Make the view ``events`` of the stretch, in no order; returns how many of them are to be scored."""
    database.execute("SET TimeZone = 'UTC'")
    first, last = (f"'{instant.isoformat()}'::TIMESTAMPTZ" for instant in (start, end - _MICROSECOND))
    transactions = snapshot(lake / "transactions").sql
    in_stretch = f"event_timestamp BETWEEN {first} AND {last}"
    scored_last = f"SELECT max(created_timestamp) FROM {transactions} WHERE {in_stretch}"
    known_meanwhile = f"created_timestamp BETWEEN {first} AND greatest({last}, ({scored_last}))"
    views = [
        f"""
        SELECT CASE WHEN event_timestamp >= {first} THEN 'score' ELSE 'record' END AS kind,
               transaction_id, customer_id, terminal_id, event_timestamp, created_timestamp,
               CAST(amount AS VARCHAR) AS amount, currency, status, channel, category,
               customer_latitude, customer_longitude, terminal_latitude, terminal_longitude,
               CAST(NULL AS VARCHAR) AS reason_code, CAST(NULL AS BIGINT) AS amount_usd_cents
        FROM {transactions}
        WHERE {in_stretch} OR (event_timestamp < {first} AND {known_meanwhile})"""
    ]
    if (lake / "chargebacks").exists():
        chargebacks = snapshot(lake / "chargebacks").sql
        views.append(
            f"""
        SELECT 'chargeback' AS kind, transaction_id, customer_id, terminal_id, event_timestamp,
               created_timestamp, reason_code, amount_usd_cents
        FROM {chargebacks} WHERE {known_meanwhile}"""
        )
    database.execute(f"CREATE TEMP TABLE events AS {' UNION ALL BY NAME '.join(views)}")
    ((scored,),) = database.sql("SELECT count(*) FROM events WHERE kind = 'score'").fetchall()
    return int(scored)


def _requests(database: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, bytes]]:
    """(kind, body) of every event, in the order in which they became known."""
    instant = "strftime({0} AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ') AS {0}"
    times = ", ".join(instant.format(name) for name in ("event_timestamp", "created_timestamp"))
    rows = database.execute(
        f"SELECT * REPLACE ({times}) FROM events "
        "ORDER BY events.created_timestamp, kind = 'chargeback', events.event_timestamp, transaction_id"
    )
    names = [column[0] for column in rows.description or ()]
    while batch := rows.fetchmany(_ROWS_AT_ONCE):
        for kind, *values in batch:
            given = {name: value for name, value in zip(names[1:], values, strict=True) if value is not None}
            yield kind, json.dumps(given).encode()


class _Connection:
    """One kept-alive HTTP/1.1 connection, a request at a time, without the cost of ``http.client``.

    It reads what our service sends (a status line, headers with a content length, a body), not all of HTTP.
    """

    def __init__(self, base_url: str) -> None:
        address = urlsplit(base_url)
        if address.scheme != "http" or address.hostname is None:
            raise ValueError(f"service address {base_url!r}: give one such as http://127.0.0.1:3000")
        self._address = (address.hostname, address.port or 80)
        self._host = address.netloc
        self._key = "".join(f"{name}: {value}\r\n" for name, value in sent_key().items())
        self._socket: socket.socket | None = None

    def __enter__(self) -> "_Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def post(self, path: str, body: bytes) -> tuple[int, bytes, bool]:
        """Send JSON; returns (status, body, whether it is an earlier answer given again).

        Raises:
            ConnectionError: no answer, also not over a new connection. TimeoutError: none within 30 s.
        """
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
            f"{self._key}Content-Length: {len(body)}\r\n\r\n"
        )
        request = head.encode() + body
        kept_alive = self._socket is not None
        try:
            return self._exchange(request)
        except ConnectionError:
            self._close()
            if not kept_alive:
                raise
            return self._exchange(request)

    def _exchange(self, request: bytes) -> tuple[int, bytes, bool]:
        if self._socket is None:
            self._socket = self._connected()
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(request)
        received = b""
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._more()
        status_line, *lines = received[:end].decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = received[end + 4 :]
        while len(body) < int(headers["content-length"]):
            body += self._more()
        if headers.get("connection") == "close":
            self._close()
        return int(status_line.split(" ", 2)[1]), body, headers.get("idempotent-replayed") == "true"

    def _connected(self) -> socket.socket:
        try:
            return socket.create_connection(self._address, timeout=30)
        except OSError as error:
            raise ConnectionError(
                f"service http://{self._host}: does not answer: {error.strerror or error}; "
                "start it with 'fraud serve', or replay without a URL"
            ) from error

    def _more(self) -> bytes:
        chunk = self._socket.recv(65_536) if self._socket is not None else b""
        if not chunk:
            raise ConnectionResetError(f"{self._host} closed the connection before its answer was whole")
        return chunk

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
