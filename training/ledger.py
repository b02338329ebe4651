"""The ledger of rollouts: one line of JSON a change, only ever appended, in ``FRAUD_HOME/rollout/ledger.jsonl``.

A line says ``at`` (ISO 8601, UTC), ``who``, ``change`` (the verb), ``from`` and ``to`` (champion and rollout, before and after),
``why`` and ``evidence``, and an ``id``. It is on disk before the change is answered. Several processes may write; a change that
several of them make at once, as when each one's guard rail ends the same rollout, stands in it once, by its id.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from feature_repo.settings import make_private, settings

__all__ = ["Ledger", "ended_line"]


class Ledger:
    """The file in ``folder``, made with the first line; None is that of this deployment."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or settings().home / "rollout"
        self.path = self._folder / "ledger.jsonl"

    def append(self, entry: Mapping[str, Any]) -> bool:
        """Append a line, unless one of its ``id`` is there; returns whether it was appended. It is synced to disk.

        Raises:
            OSError: it cannot be written; nothing of it is left.
        """
        make_private(self._folder)
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if any(each.get("id") == entry["id"] for each in self.entries()):
                return False
            size = os.fstat(file).st_size
            torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            line = (b"\n" if torn else b"") + json.dumps(dict(entry)).encode() + b"\n"
            try:
                written = os.write(file, line)
                if written != len(line):
                    raise OSError(
                        f"{self.path}: only {written} of {len(line)} bytes written: is the disk full?"
                    )
                os.fsync(file)
            except OSError:
                os.ftruncate(file, size)
                raise
            _sync(self._folder)
            return True
        finally:
            os.close(file)

    def entries(self) -> list[dict[str, Any]]:
        """All lines, the oldest first; none without a file. A line cut short by a crash is left out."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        return [found for line in lines if (found := _read(line)) is not None]


def ended_line(rollout_id: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """The line of a rollout that a guard rail has ended, from what the registry holds of its end."""
    before = {name: about.get(name) for name in ("champion", "mode", "challenger", "share")}
    return {
        "id": f"ended:{rollout_id}",
        "at": about.get("at"),
        "who": about.get("who"),
        "change": "rollback",
        "rollout": rollout_id,
        "from": before,
        "to": {**before, "mode": "champion", "challenger": None, "share": 0.0},
        "why": about.get("why"),
        "evidence": {name: about.get(name) for name in ("guard", "value", "limit", "counts")},
    }


def _read(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _sync(folder: Path) -> None:
    """The name of a new file is on disk only when its folder is."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
