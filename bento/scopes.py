"""Which scope a path asks for: one table for the project's routes and BentoML's own."""

__all__ = ["ANY", "OPEN", "route_of", "scope_of"]

OPEN = None
"""Answered without a key."""

ANY = ""
"""Answered to every key that is good for something."""

_BY_PATH: dict[str, str | None] = {
    "/livez": OPEN,
    "/healthz": OPEN,
    "/readyz": OPEN,
    "/v1/score": "score",
    "/v1/score/batch": "score",
    "/v1/what_if": "score",
    "/v1/transactions": "record",
    "/v1/chargebacks": "record",
    "/v1/features": "read",
    "/v1/model": "read",
    "/metrics": "metrics",
    "/": ANY,
    "/docs.json": ANY,
    "/openapi.json": ANY,
    "/schema.json": ANY,
}
_BY_PREFIX: tuple[tuple[str, str | None], ...] = (
    ("/v1/decisions/", "read"),
    ("/problems/", ANY),
    ("/static_content/", ANY),
)


def scope_of(path: str) -> str | None:
    """The scope that a request to ``path`` needs, ``ANY`` or ``OPEN``; what is not in the table needs ``admin``."""
    found = _BY_PATH.get(path, "?")
    if found != "?":
        return found
    for prefix, scope in _BY_PREFIX:
        if path.startswith(prefix):
            return scope
    return "admin"


def route_of(path: str) -> str:
    """The path by its route, one of few: without ids, and ``other`` for what is not in the table."""
    if path in _BY_PATH:
        return path
    return next((f"{prefix}*" for prefix, _ in _BY_PREFIX if path.startswith(prefix)), "other")
