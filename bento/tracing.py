"""W3C trace context: a request's trace id in the log and in the answer, and spans of its stages if it is sampled.

A request that brings no ``traceparent`` and is not sampled costs nothing but one look for the header; one that brings it and
is not sampled, the reading of it and a header in the answer. What is sampled becomes spans, which a thread of OpenTelemetry
exports; without a collector nothing is sampled, whatever the caller says.
"""

import logging
import os
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any

from starlette.types import Message, Scope, Send

from bento.scopes import route_of
from bento.trace_export import Sampling, provider_of, sampling_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["Trace", "Tracing", "current_trace", "within"]

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_SAMPLED = 1
_log = logging.getLogger(__name__)
_CURRENT: ContextVar["Trace | None"] = ContextVar("trace", default=None)


def current_trace() -> "Trace | None":
    """The trace of the request that is being answered; None where there is none."""
    return _CURRENT.get()


@contextmanager
def within(trace: "Trace | None") -> Iterator[None]:
    """Work on a request, from wherever: within, its trace is the current one."""
    token = _CURRENT.set(trace)
    try:
        yield
    finally:
        _CURRENT.reset(token)


class Tracing:
    """Begins the traces of one process."""

    def __init__(self, provider: "TracerProvider | None", sampling: Sampling) -> None:
        self._provider, self._sampling = provider, sampling
        self._tracer = None if provider is None else provider.get_tracer("fraud")
        self._begins = provider is not None and sampling.ratio > 0

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> "Tracing":
        """As the standard ``OTEL_`` variables say; see :mod:`bento.trace_export`.

        Raises:
            ValueError: one of them has a value that is not supported.
        """
        return cls(provider_of(environment), sampling_of(environment))

    def begin(self, traceparent: bytes | None, scope: Scope) -> "Trace | None":
        """The trace of a request, to be entered while it is answered; None where nobody asks for one.

        A ``traceparent`` that is malformed is as none, as the standard says.
        """
        if traceparent is None and not self._begins:
            return None
        parent = None if traceparent is None else _parent(traceparent)
        sampled = self._samples(parent)
        if parent is None and not sampled:
            return None
        return self._sampled(parent, scope) if sampled else Trace(parent[0] if parent else "", _span_id())

    def close(self) -> None:
        """Export what is left, and end."""
        if self._provider is not None:
            self._provider.shutdown()

    def flush(self) -> None:
        """Export what is there now."""
        if self._provider is not None:
            self._provider.force_flush()

    def _samples(self, parent: tuple[str, str, bool] | None) -> bool:
        if self._provider is None:
            return False
        if parent is not None and self._sampling.parent_based:
            return parent[2]
        return random.random() < self._sampling.ratio  # noqa: S311 - a sample, no secret

    def _sampled(self, parent: tuple[str, str, bool] | None, scope: Scope) -> "Trace":
        from opentelemetry import trace as otel

        context = None
        if parent is not None:
            caller = otel.SpanContext(int(parent[0], 16), int(parent[1], 16), True, otel.TraceFlags(_SAMPLED))
            context = otel.set_span_in_context(otel.NonRecordingSpan(caller))
        tracer: Any = self._tracer
        method, route = scope["method"], route_of(scope["path"])
        span = tracer.start_span(
            f"{method} {route}",
            context=context,
            kind=otel.SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": route},
        )
        own = span.get_span_context()
        return Trace(f"{own.trace_id:032x}", f"{own.span_id:016x}", span, tracer)


class Trace:
    """A request's place in a trace; a context manager, within which it is the current one.

    Attributes:
        trace_id: 32 hex digits. span_id: this request's own, 16 hex digits.
    """

    __slots__ = ("_span", "_token", "_tracer", "span_id", "trace_id")

    def __init__(self, trace_id: str, span_id: str, span: Any = None, tracer: Any = None) -> None:
        self.trace_id, self.span_id = trace_id, span_id
        self._span, self._tracer = span, tracer
        self._token: Token[Trace | None] | None = None

    def __enter__(self) -> "Trace":
        self._token = _CURRENT.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._token is not None:
            _CURRENT.reset(self._token)
        if self._span is not None:
            self._span.end()

    def answering(self, send: Send) -> Send:
        """``send``, with the trace in the answer's ``traceresponse`` header."""
        sampled = _SAMPLED if self._span is not None else 0
        header = (b"traceresponse", f"00-{self.trace_id}-{self.span_id}-{sampled:02x}".encode())

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], header]
                if self._span is not None:
                    self._answered(message["status"])
            await send(message)

        return sending

    def stages(self, names: Sequence[str], ends_ns: Sequence[int]) -> None:
        """Add a span for each stage: stage ``i`` lasted from ``ends_ns[i]`` to ``ends_ns[i + 1]``, by ``perf_counter_ns``."""
        if self._span is None:
            return
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(self._span)
        to_wall_ns = time.time_ns() - time.perf_counter_ns()
        for name, start, end in zip(names, ends_ns, ends_ns[1:], strict=False):
            span = self._tracer.start_span(name, context=context, start_time=start + to_wall_ns)
            span.end(end_time=end + to_wall_ns)

    def decided(self, transaction_id: str, decision: str, degraded: str | None) -> None:
        """Say which transaction it was, in the span and in a line of the log: where the one is found, so is the other."""
        if self._span is None:
            return
        about = {"transaction_id": transaction_id, "decision": decision, "degraded": degraded or "no"}
        self._span.set_attributes({f"fraud.{name}": value for name, value in about.items()})
        _log.info("decided", extra=about)

    def _answered(self, status: int) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))


def _parent(traceparent: bytes) -> tuple[str, str, bool] | None:
    """(trace id, span id, sampled) of a caller; None where the header is not one."""
    match = _TRACEPARENT.fullmatch(traceparent.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    # A later version may have more fields; this one has not.
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    if trace_id == b"0" * 32 or span_id == b"0" * 16:
        return None
    return trace_id.decode(), span_id.decode(), bool(int(flags, 16) & _SAMPLED)


def _span_id() -> str:
    return f"{random.getrandbits(64) or 1:016x}"
