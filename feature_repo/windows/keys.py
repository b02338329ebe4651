"""Names of windowed state in Redis.

A state's key starts with its project, view and the digest of what is kept, so a view whose state would hold other events or
another format never reads old bytes; the entity's values follow, each with its length, so no two entities share a key.
"""

from collections.abc import Iterable
from hashlib import blake2b

from feature_repo.windows.spec import ViewSpec

GRACE_US = (
    2 * 86_400_000_000
)  # how far behind the newest event of a key an instant may lie and still be answered


def project_prefix(project: str) -> bytes:
    """What every state key of a project starts with."""
    return f"window:{project}:".encode()


def state_prefix(project: str, view: str) -> bytes:
    """What every state key of a view starts with, whatever its definition."""
    return project_prefix(project) + f"{view}:".encode()


def view_prefix(project: str, spec: ViewSpec) -> bytes:
    """What every state key of a view under this definition starts with."""
    return state_prefix(project, spec.view) + f"{spec.state_digest}:".encode()


def state_key(prefix: bytes, values: Iterable[object]) -> bytes:
    """The state key of an entity, its join-key values in the order of the view's keys: as text, as DuckDB writes it."""
    return prefix + b"".join(map(key_part, values))


def key_part(value: object) -> bytes:
    """What one of an entity's values adds to its state key."""
    if isinstance(value, bool):
        value = "true" if value else "false"
    part = str(value).encode()
    return b"%d:%b" % (len(part), part)


def parts_key(state: bytes) -> bytes:
    """The hash beside a state that has the contents of its nodes. No entity's values end so: each starts with a digit."""
    return state + b":c"


def distinct_key(state: bytes, index: int) -> bytes:
    """The sorted set beside a state with each value of one column among its sealed events, by the last event time."""
    return state + b":d%d" % index


def loaded_key(project: str, spec: ViewSpec) -> bytes:
    """Where the end of the last load of history stands, in microseconds as text.

    It expires as the states do that were loaded; recorders keep it up as they keep those up.
    """
    return view_prefix(project, spec) + b"loaded"


def whole_key(project: str, specs: Iterable[ViewSpec]) -> bytes:
    """The mark of a plan that reads these views: their state was whole when it was put there, and goes with the state."""
    prefixes = sorted(view_prefix(project, spec) for spec in specs)
    return (
        project_prefix(project)
        + b":whole:"
        + blake2b(b"\n".join(prefixes), digest_size=8).hexdigest().encode()
    )


def floor_key(project: str, spec: ViewSpec) -> bytes:
    """Where the view's floor stands, in microseconds as text: a load left out events up to and including this event time.

    It is the view's and not a state's, for a key of which everything was left out has no state to say so.
    """
    return view_prefix(project, spec) + b"floor"


def retention_us(spec: ViewSpec) -> int:
    """How long an event is kept behind the newest of its key."""
    return spec.horizon_us + GRACE_US


def expiry_s(spec: ViewSpec) -> int:
    """Seconds after its last event at which a state may go: nothing in it can count any more."""
    return -(-retention_us(spec) // 1_000_000)


def lifetime_s(spec: ViewSpec) -> int:
    """Seconds that a state is given: a little more than it must live, so that not every event renews them."""
    return expiry_s(spec) * 17 // 16
