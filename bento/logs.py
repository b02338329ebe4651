"""The service's log: a JSON object a line on standard output, without secrets and card numbers.

Beside what is said, a line has the transaction's id if there is one, and the trace's if the request has one.
"""

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from typing import Any

from bento.redaction import RedactingFilter, redact, redacted
from bento.tracing import current_trace

__all__ = ["CANNOT_START", "JsonLines", "configure", "transaction_id_in"]

CANNOT_START = "the service cannot start"
"""What is logged when a worker gives up; BentoML's supervisor goes on starting new ones."""

# What every record has, and what BentoML adds to each of its own.
_NOT_SAID = frozenset(vars(logging.makeLogRecord({}))) | {
    *("message", "asctime", "levelname_bracketed", "component", "trace_msg", "request_id", "service_name"),
}
_LONGEST_ID = 128
_OURS = ("bento", "feature_repo", "training")
_log = logging.getLogger(__name__)


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        trace = current_trace()
        if trace is not None:
            line |= {"trace_id": trace.trace_id, "span_id": trace.span_id}
        line |= {name: value for name, value in vars(record).items() if name not in _NOT_SAID}
        if record.exc_text or record.exc_info:
            line["traceback"] = record.exc_text or self.formatException(record.exc_info or (None, None, None))
        return json.dumps(redacted(line), default=lambda value: redact(str(value)))


def configure() -> None:
    """Send this project's loggers to standard output, and have BentoML's and the libraries' lines be as these are."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    handler.addFilter(RedactingFilter())
    for package in _OURS:
        logger = logging.getLogger(package)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
    for other in _handlers():
        if not any(isinstance(each, RedactingFilter) for each in other.filters):
            other.setFormatter(JsonLines())
            other.addFilter(RedactingFilter())
    threading.excepthook = _thread_failed
    logging.captureWarnings(True)


def transaction_id_in(body: Any) -> str | None:
    """The transaction's id in a request that failed, for the log; None where it cannot be told."""
    try:
        given = json.loads(body) if isinstance(body, bytes) else body
    except (ValueError, RecursionError):
        return None
    found = given.get("transaction_id") if isinstance(given, dict) else getattr(given, "transaction_id", None)
    return found[:_LONGEST_ID] if isinstance(found, str) else None


def _handlers() -> list[logging.Handler]:
    known = logging.root.manager.loggerDict.values()
    loggers = [logging.root, *(each for each in known if isinstance(each, logging.Logger))]
    return [handler for logger in loggers for handler in logger.handlers]


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """A thread's failure goes to the log like any other: what Python prints by itself is not redacted."""
    name = "?" if failed.thread is None else failed.thread.name
    _log.critical("thread %s has failed", name, exc_info=failed.exc_value)
