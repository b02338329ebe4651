"""The model beside: what the journal says of the one that was scored with a decision and did not make it.

Its part of the line (``beside``) leaves out what it has alike with the model that decided: a feature or a view that is not in
it has the value that stands in the line itself. ``record_beside`` puts the whole together, so that whatever reads decisions
reads these as well.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["record_beside"]


def record_beside(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The line as if the other model had decided; None where there was none.

    ``features`` are empty where it saw none. Those of the model that decided may be among them.
    """
    beside = record.get("beside")
    if beside is None:
        return None
    own = beside["features"]
    return {
        **record,
        "features": {} if own is None else {**record["features"], **own},
        "state_seen": {**(record["state_seen"] or {}), **beside["state_seen"]},
        "score": beside["score"],
        "decision": beside["decision"] or record["decision"],
        "degraded": beside["degraded"],
        "model_version": beside["model_version"],
        "feature_service": beside["feature_service"],
        "definitions_digest": beside["definitions_digest"],
    }
