"""Entity rows of an online request: by column, and the instants that they ask for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pandas as pd
from feast.protos.feast.types.Value_pb2 import Value

from feature_repo.windows.evaluate import Integers
from feature_repo.windows.state import from_microseconds, to_microseconds

INSTANT, KNOWN_AS_OF = "event_timestamp", "created_timestamp"


@dataclass(frozen=True)
class Question:
    """The instants of one request, int64[rows] microseconds; None means now."""

    instants: Integers | None = None
    known_as_of: Integers | None = None


def question_of(entity_rows: Any) -> tuple[dict[str, Any], Question]:
    """Entity rows by column, and what they ask.

    ``event_timestamp`` in the rows is each row's instant, ``created_timestamp`` what was known, by default the instant. The first
    stays in the rows as datetimes, for transforms that read it; the second is taken out.

    Raises:
        ValueError: rows of differing columns; a time that is none.
    """
    columns = _columns(entity_rows)
    if INSTANT not in columns:
        if KNOWN_AS_OF in columns:
            raise ValueError(
                f"entity rows: {KNOWN_AS_OF} without {INSTANT}; give the instant that is asked about"
            )
        count = max((len(values) for values in columns.values()), default=0)
        # Transforms over the time of the request get now; the windows take the server's clock.
        return {**columns, INSTANT: [datetime.now(UTC)] * count}, Question()
    columns[INSTANT] = [_moment(value, INSTANT) for value in columns[INSTANT]]
    instants = _microseconds(columns[INSTANT])
    if KNOWN_AS_OF not in columns:
        return columns, Question(instants, instants)
    known = [_moment(value, KNOWN_AS_OF) for value in columns.pop(KNOWN_AS_OF)]
    return columns, Question(instants, _microseconds(known))


def _columns(entity_rows: Any) -> dict[str, list[Any]]:
    if isinstance(entity_rows, Mapping):
        return {
            name: list(values.val if hasattr(values, "val") else values)
            for name, values in entity_rows.items()
        }
    if any(set(row) != set(entity_rows[0]) for row in entity_rows):
        raise ValueError("All entity_rows must have the same keys.")
    return {name: [row[name] for row in entity_rows] for name in (entity_rows[0] if entity_rows else ())}


def _microseconds(moments: Sequence[datetime]) -> Integers:
    return np.array([to_microseconds(moment) for moment in moments], dtype=np.int64)


def _moment(value: Any, column: str) -> datetime:
    """A datetime, an ISO 8601 text or Feast's own timestamp value, as a datetime; without a zone it is UTC, as in Feast."""
    if isinstance(value, Value):
        value = datetime.fromtimestamp(value.unix_timestamp_val, UTC)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, np.datetime64) and not np.isnat(value):
        value = from_microseconds(int(value.astype("datetime64[us]").astype(np.int64)))
    if not isinstance(value, datetime) or value is pd.NaT:
        kind = "a date" if isinstance(value, date) else type(value).__name__
        raise ValueError(f"entity rows: {column} is {value!r} ({kind}); give a datetime, or ISO 8601 text")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value
