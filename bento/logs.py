"""The service's log: a JSON object a line on standard output, with the transaction's id if there is one."""

import json
import logging
import sys
from datetime import UTC, datetime

__all__ = ["CANNOT_START", "configure"]

CANNOT_START = "the service cannot start"
"""What is logged when a worker gives up; BentoML's supervisor goes on starting new ones."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure() -> None:
    """Send this project's loggers to standard output; BentoML's own stay as they are."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_JsonLines())
    for package in ("bento", "feature_repo", "training"):
        logger = logging.getLogger(package)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
