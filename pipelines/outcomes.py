"""Where verbs leave what they found, so that later ones and people can read it: ``FRAUD_HOME/<verb>/<time>.json``."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["every", "latest", "save", "stamp"]


def stamp(now: datetime) -> str:
    """A file's name for an instant: sorts by time, to the microsecond."""
    return f"{now.astimezone(UTC):%Y-%m-%dT%H-%M-%S.%fZ}"


def save(folder: Path, now: datetime, document: Any) -> Path:
    """Write ``document`` as JSON under the name of ``now``, as one rename: a reader never sees half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stamp(now)}.json"
    half = path.with_suffix(".part")
    half.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    half.replace(path)
    return path


def latest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest document in ``folder`` and its path; None if there is none.

    Raises:
        ValueError: it is not JSON.
    """
    paths = sorted(folder.glob("*.json"))
    return (paths[-1], _read(paths[-1])) if paths else None


def every(folder: Path) -> Iterator[dict[str, Any]]:
    """All documents in ``folder``, the oldest first; raises as :func:`latest`."""
    yield from map(_read, sorted(folder.glob("*.json")))


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); remove it, and run its verb again") from error
    return document
