"""What the service shows of its own knowledge, and records nowhere: features as of now, and past decisions."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from bento.champion import MODEL_NAME, Champion
from bento.problem import problem
from bento.recording import Recording
from bento.seen import DECISION
from feature_repo.windows.reading import StateLostError

__all__ = ["decision_document", "features_document", "find_decision"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# How long a decision took is no instant.
_DURATIONS = ("latency_us",)


def features_document(champion: Champion, recording: Recording, row: Mapping[str, Any]) -> bytes:
    """The champion's features as the store has them at the row's instant, as JSON; nothing is recorded.

    Args:
        row: keys, request columns and instants, as ``parse_question`` gives them.

    Raises:
        Problem: a key that the features need is missing; events wait for the store; or the state has dropped what the instant
            needs. RedisError, OSError: the store does not answer.
    """
    for key in champion.plan.join_keys:
        if row.get(key) is None:
            raise problem("missing-field", key, "features of this model are kept by it; send it as text")
    with recording.store():
        why_not = recording.why_not()
        if why_not is not None:
            raise problem("unavailable", None, f"the state lacks events ({why_not}); ask again in a moment")
        try:
            read = champion.plan.read([row])
        except StateLostError as error:
            recording.state_lost()
            raise problem("unavailable", None, str(error)) from error
        except LookupError as error:
            raise problem("history-dropped", None, str(error)) from error
    values = read.values[0].tolist()
    document = {
        "event_timestamp": _instant(row["event_timestamp_us"]),
        "known_as_of": _instant(int(read.known_as_of_us[0])),
        "features": {
            name: None if value != value else value
            for name, value in zip(champion.plan.feature_names, values, strict=True)
        },
        "state_seen": {view: int(count[0]) for view, count in read.state_seen.items()},
        "model": {"name": MODEL_NAME, "version": champion.version},
        "feature_service": champion.bundle.feature_service,
        "definitions_digest": champion.bundle.definitions_digest,
    }
    return json.dumps(document).encode()


def find_decision(recording: Recording, transaction_id: str) -> dict[str, Any]:
    """The journal's line of a decision.

    Raises:
        Problem: no decision is known by the id. OSError: the journal cannot be read.
    """
    # The index takes text only, and no id has what does not print.
    found = recording.seen.find(transaction_id) if transaction_id.isprintable() else {}
    if DECISION not in found:
        raise problem(
            "unknown-decision",
            "transaction_id",
            f"no decision on {transaction_id[:128]!r} is known here; send the id of a transaction that was scored",
        )
    return recording.journal.read(found[DECISION].location)


def decision_document(record: Mapping[str, Any]) -> dict[str, Any]:
    """A journalled decision as it is shown: everything in it, instants as text, the model as one member."""
    document: dict[str, Any] = {}
    for name, value in record.items():
        if name.endswith("_us") and name not in _DURATIONS:
            document[name.removesuffix("_us")] = None if value is None else _instant(value)
        elif name == "model_name":
            model = {"name": value, "version": record["model_version"]}
            document["model"] = None if value is None else model
        elif name not in ("model_version", "content"):
            document[name] = value
    return document


def _instant(us: int) -> str:
    return (_EPOCH + timedelta(microseconds=us)).isoformat()
