"""The service's own description (OpenAPI 3.1): every route, what it takes, what it answers, how it refuses.

BentoML's page at ``/`` shows it. Bodies come from the parsers' own field tables (``bento.request``), problems from
``bento.problem``; only what is answered is written down here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from bento.api_keys import SCOPES
from bento.problem import KINDS, MEDIA_TYPE, PROBLEMS_PATH
from bento.request import MAX_TEXT, body_schemas
from bento.scopes import OPEN, scope_of
from bento.score_batch import FIELD, MAX_BATCH
from bento.what_if import WHAT_IF_PATH

__all__ = ["BENTOML", "document"]

BENTOML = "BentoML"
"""The tag of routes that BentoML serves, not the app."""

_SCORING, _RECORDING, _LOOKING = "Scoring", "Recording", "Looking"

# The kinds of problem with which routes refuse: who asks, or when; any route; those with a body, fields, an event.
_GATE = ("unauthorized", "forbidden", "rate-limited", "overloaded", "deadline-passed")
_ANY = ("internal-error",)
_BODY = (*_ANY, "invalid-json", "media-type", "body-too-large")
_FIELDS = (
    *_BODY,
    "missing-field",
    "unknown-field",
    "wrong-type",
    "invalid-value",
    "in-the-future",
    "card-number",
)
_EVENT = (*_FIELDS, "conflict", "unavailable")


@dataclass(frozen=True)
class _Operation:
    """One method of one path; ``answers`` and ``takes`` are JSON schemas, ``refuses`` kinds of problem."""

    path: str
    method: str
    name: str
    tag: str
    summary: str
    answers: dict[str, Any] | None = None
    takes: dict[str, Any] | None = None
    refuses: tuple[str, ...] = ()
    parameters: tuple[dict[str, Any], ...] = ()
    description: str = ""
    repeats: bool = False
    example: Any = None

    def as_dict(self) -> dict[str, Any]:
        operation: dict[str, Any] = {
            "operationId": self.name,
            "tags": [self.tag],
            "summary": self.summary,
            "responses": {"200": self._success(), **_problems((*self._gate(), *self.refuses))},
        }
        if self.description:
            operation["description"] = self.description
        if self.parameters:
            operation["parameters"] = list(self.parameters)
        if self.takes is not None:
            shown = {} if self.example is None else {"example": self.example}
            content = {"application/json": {"schema": self.takes, **shown}}
            operation["requestBody"] = {"required": True, "content": content}
        return operation

    def _gate(self) -> tuple[str, ...]:
        return () if scope_of(self.path.partition("{")[0]) is OPEN else _GATE

    def _success(self) -> dict[str, Any]:
        success: dict[str, Any] = {"description": "done"}
        if self.answers is not None:
            success["content"] = {"application/json": {"schema": self.answers}}
        if self.repeats:
            success["headers"] = {
                "Idempotent-Replayed": {
                    "description": "true if this is the first answer to the same request, given again",
                    "schema": {"const": "true"},
                }
            }
        return success


def _problems(kinds: Iterable[str]) -> dict[str, Any]:
    """The responses by status; those of one status share one, which names its kinds."""
    by_status: dict[int, list[str]] = {}
    for name in kinds:
        by_status.setdefault(KINDS[name].status, []).append(name)
    return {
        str(status): {
            "description": "; ".join(f"{name}: {KINDS[name].title}" for name in names),
            "content": {MEDIA_TYPE: {"schema": _ref("Problem")}},
        }
        for status, names in sorted(by_status.items())
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _maybe(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _true(name: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"const": True}}, "required": [name]}


def _list(schema: dict[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "items": schema, "minItems": 1, "maxItems": most}


def _list_of_any(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema}


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """What is answered may have more members than those named, which come with later versions."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


_TEXT = {"type": "string"}
_INSTANT = {"type": "string", "format": "date-time"}
_COUNT = {"type": "integer", "minimum": 0}
_DECISION = {"enum": ["approve", "review", "decline"]}
_SCORE = _maybe({"type": "number", "minimum": 0, "maximum": 1})
_MODEL = _object({"name": _TEXT, "version": _TEXT})
_FEATURES = {"type": "object", "additionalProperties": {"type": ["number", "null"]}}
_STATE_SEEN = {
    "type": "object",
    "additionalProperties": _COUNT,
    "description": "for each view, how many events the state of its key held",
}
_REASON = _object(
    {
        "code": _TEXT,
        "direction": {**_TEXT, "description": "raises or lowers the score, or rule"},
        "sentence": _TEXT,
        "contribution": {
            **_maybe({"type": "number"}),
            "description": "log-odds added to the score; null of rules",
        },
        "features": {"type": "array", "items": _TEXT, "description": "those that weigh most in it"},
    }
)
_DEGRADED = {**_maybe(_TEXT), "description": "why features or model did not decide; null: they did"}

_ANSWERED = {
    "Answer": _object(
        {
            "transaction_id": _TEXT,
            "decision": _DECISION,
            "score": _SCORE,
            "reasons": {
                **_maybe(_list_of_any(_TEXT)),
                "description": "why it was not approved, weightiest first",
            },
            "model": _maybe(_MODEL),
            "feature_service": _maybe(_TEXT),
            "degraded": _DEGRADED,
            "latency_us": _COUNT,
        }
    ),
    "WhatIf": _object({"transaction_id": _TEXT, "decision": _DECISION, "score": _SCORE, "model": _MODEL}),
    "Recorded": _object(
        {
            "transaction_id": _TEXT,
            "table": {"enum": ["transactions", "chargebacks"]},
            "created_timestamp": {**_INSTANT, "description": "when it became known"},
        }
    ),
    "Features": _object(
        {
            "event_timestamp": _INSTANT,
            "known_as_of": _INSTANT,
            "features": _FEATURES,
            "state_seen": _STATE_SEEN,
            "model": _MODEL,
            "feature_service": _TEXT,
            "definitions_digest": _TEXT,
        }
    ),
    "Decision": _object(
        {
            "transaction_id": _TEXT,
            "event_timestamp": _INSTANT,
            "known_as_of": {**_INSTANT, "description": "events known strictly before counted"},
            "created_timestamp": {**_INSTANT, "description": "when the transaction became known"},
            "decided_at": _INSTANT,
            "customer_id": _TEXT,
            "terminal_id": _TEXT,
            "request": {"type": "object", "additionalProperties": {"type": ["number", "null"]}},
            "features": _FEATURES,
            "state_seen": _STATE_SEEN,
            "score": _SCORE,
            "decision": _DECISION,
            "reasons": _list_of_any(_REASON),
            "degraded": _DEGRADED,
            "model": _maybe(_MODEL),
            "policy": _maybe({"type": "object"}),
            "feature_service": _maybe(_TEXT),
            "definitions_digest": _maybe(_TEXT),
            "latency_us": _COUNT,
            "rollout": {
                "type": "object",
                "description": "which rollout it was part of, and the customer's arm",
            },
            "beside": {
                "type": "object",
                "description": "the other model's version, score and decision, and what it saw that this one did not",
            },
            "exploration": {
                "type": "object",
                "description": "of a decline: its draw, and the probability with which it was approved to learn its label",
            },
        },
        optional=("policy", "rollout", "beside", "exploration"),
    ),
    "Model": _object(
        {
            "ready": {"type": "boolean"},
            "refused": {**_maybe(_TEXT), "description": "why the version that is wanted does not serve"},
            "name": _TEXT,
            "rollout": {
                "type": "object",
                "description": "what is tried beside the champion, and how it does",
            },
            "version": _maybe(_TEXT),
            "feature_service": _TEXT,
            "definitions_digest": _TEXT,
            "features": {"type": "array", "items": _TEXT},
        },
        optional=("feature_service", "definitions_digest", "features"),
    ),
    "Problem": _object(
        {
            "type": {"enum": [f"{PROBLEMS_PATH}/{name}" for name in KINDS]},
            "title": _TEXT,
            "status": {"enum": sorted({kind.status for kind in KINDS.values()})},
            "detail": {**_TEXT, "description": "what is wrong here, and what to do about it"},
            "field": {**_TEXT, "description": "the field that it is about"},
        },
        optional=("field",),
    ),
    "ProblemKind": _object({"type": _TEXT, "title": _TEXT, "status": {"type": "integer"}}),
}

# As in the README, on simulated events.
_KEYS = {"customer_id": "c0000001", "terminal_id": "t0000001"}
_A_TRANSACTION = {
    "transaction_id": "example-1",
    "event_timestamp": "2025-02-27T10:00:00Z",
    **_KEYS,
    "amount": "12.50",
    "currency": "USD",
}
_A_CHARGEBACK = {"transaction_id": "example-1", "reason_code": "10.4"}

_TRANSACTIONS = _list(_ref("Transaction"), MAX_BATCH)
_BY_NAME = {
    "type": "object",
    "properties": {FIELD: _TRANSACTIONS},
    "required": [FIELD],
    "additionalProperties": False,
}

_OPERATIONS = (
    _Operation(
        *("/v1/score", "post", "score", _SCORING, "Decide on a transaction, and record it"),
        *(_ref("Answer"), _ref("Transaction"), _EVENT),
        description="The same transaction sent again gets its first answer again, and is recorded once.",
        repeats=True,
        example=_A_TRANSACTION,
    ),
    _Operation(
        *("/v1/score/batch", "post", "score_batch", _SCORING, "Decide on many, each as /v1/score would"),
        _list({"anyOf": [_ref("Answer"), _ref("Problem")]}, MAX_BATCH),
        # Elements are judged one by one, so none of them makes the batch malformed.
        {
            "anyOf": [
                _list({"anyOf": [_ref("Transaction"), {}]}, MAX_BATCH),
                {**_BY_NAME, "properties": {FIELD: _list({"anyOf": [_ref("Transaction"), {}]}, MAX_BATCH)}},
            ]
        },
        (*_BODY, "missing-field", "unknown-field", "wrong-type", "invalid-value"),
        description="Answered in order: for each element an answer, or the problem with which it is refused.",
        example=[_A_TRANSACTION],
    ),
    _Operation(
        *(WHAT_IF_PATH, "post", "what_if", BENTOML, "Score transactions; nothing is recorded or journalled"),
        *(_list(_ref("WhatIf"), MAX_BATCH), _BY_NAME, (*_FIELDS, "history-dropped", "unavailable")),
        example={FIELD: [_A_TRANSACTION]},
    ),
    _Operation(
        *("/v1/features", "post", "features", _LOOKING, "What the store says of these keys at this instant"),
        *(_ref("Features"), _ref("FeatureQuestion"), (*_FIELDS, "history-dropped", "unavailable")),
        description="The features of the model that serves; nothing is recorded.",
        example={**_KEYS, "amount": "12.50"},
    ),
    _Operation(
        *("/v1/transactions", "post", "transaction", _RECORDING, "Record what is decided elsewhere"),
        *(_ref("Recorded"), _ref("Transaction"), _EVENT),
        repeats=True,
        example={**_A_TRANSACTION, "transaction_id": "example-2"},
    ),
    _Operation(
        *("/v1/chargebacks", "post", "chargeback", _RECORDING, "Record a chargeback"),
        *(_ref("Recorded"), _ref("Chargeback")),
        (*_EVENT, "unknown-transaction", "history-not-loaded"),
        repeats=True,
        example=_A_CHARGEBACK,
    ),
    _Operation(
        *(
            "/v1/decisions/{transaction_id}",
            "get",
            "decision",
            _LOOKING,
            "A decision, and all it was made from",
        ),
        *(_ref("Decision"), None, (*_ANY, "unknown-decision", "unavailable")),
        (
            {
                "name": "transaction_id",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT},
            },
        ),
    ),
    _Operation("/v1/model", "get", "model", _LOOKING, "Which model serves", _ref("Model")),
    _Operation(
        *(f"{PROBLEMS_PATH}/{{kind}}", "get", "problem", _LOOKING, "What a kind of problem means"),
        *(_ref("ProblemKind"), None, ("not-found",)),
        ({"name": "kind", "in": "path", "required": True, "schema": {"enum": list(KINDS)}},),
    ),
    _Operation("/metrics", "get", "metrics", _LOOKING, "Counters and times, for Prometheus"),
    _Operation("/docs.json", "get", "description", _LOOKING, "This description", {"type": "object"}),
    _Operation("/livez", "get", "livez", BENTOML, "Whether the process lives", _true("alive")),
    _Operation(
        *("/readyz", "get", "readyz", BENTOML, "Whether it decides by its model, from a store that answers"),
        *(_true("ready"), None, ("unavailable",)),
        description="One that is not ready still answers, by the next best means.",
    ),
)

_SECURITY = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "an API key, which `fraud keys create` gives; its scopes: "
        + "; ".join(f"{name}: {what}" for name, what in SCOPES.items()),
    }
}


@cache
def document() -> dict[str, Any]:
    """The description; not to be changed by whom it is given to."""
    paths: dict[str, Any] = {}
    for operation in _OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = operation.as_dict()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Fraud scoring",
            "version": "1",
            "description": "Decides on card transactions. What is refused changes nothing, and is answered by a problem "
            "document (RFC 9457) that names the field and the way out.",
        },
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {"schemas": {**body_schemas(), **_ANSWERED}, "securitySchemes": _SECURITY},
        # Without any key configured the service asks its own machine for none.
        "security": [{name: []} for name in _SECURITY] + [{}],
    }
