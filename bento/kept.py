"""The last champion that served here, and the last rollout, kept beside the service: what a restart falls back on.

Without it, a service that restarts while the registry is down, or while its alias names a version that cannot
serve, would have no model, though the process before it had one.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from training.bundle import Bundle
from training.rollout import Rollout

__all__ = ["KeptChampion", "KeptRollout"]


class KeptChampion:
    """One bundle and its version in ``folder``; several processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pointer = folder / "version"

    def keep(self, bundle: Bundle, version: str) -> None:
        """Keep this one in place of the one before.

        Raises:
            OSError: it cannot be copied; the one before stays.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        place = self._folder / f"bundle-{version}"
        if not place.exists():
            whole = Path(tempfile.mkdtemp(dir=self._folder, prefix="copy-"))
            shutil.copytree(bundle.folder, whole, dirs_exist_ok=True)
            os.rename(whole, place)
        fresh = self._pointer.with_name(f"version-{os.getpid()}")
        fresh.write_text(version)
        os.replace(fresh, self._pointer)
        for other in self._folder.glob("bundle-*"):
            if other != place:
                shutil.rmtree(other, ignore_errors=True)

    def load(self) -> tuple[Bundle, str] | None:
        """The kept bundle and its version; None if there is none.

        Raises:
            BundleError: it is damaged.
        """
        try:
            version = self._pointer.read_text()
        except FileNotFoundError:
            return None
        return Bundle.load(self._folder / f"bundle-{version}"), version


class KeptRollout:
    """The rollout that was in force, and what is known of the end of rollouts, in ``file``; several processes may share it."""

    def __init__(self, file: Path) -> None:
        self._file, self._text = file, ""

    def keep(self, document: Rollout, ended: Mapping[str, Any], told: Iterable[str]) -> None:
        """Keep these in place of those before; that another process has seen this very rollout end stays.

        Args:
            ended: by the rollout's id, what is to be said of its end. told: those of which the registry knows.

        Raises:
            OSError: it cannot be written; what was kept before stays.
        """
        ended = {**self._ended_elsewhere(document), **ended}
        text = json.dumps({"document": document.as_text(), "ended": ended, "told": sorted(told)})
        if text == self._text:
            return
        fresh = self._file.with_name(f"{self._file.stem}-{os.getpid()}")
        self._file.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(text)
        os.replace(fresh, self._file)
        self._text = text

    def load(self) -> tuple[Rollout, dict[str, dict[str, Any]], list[str]] | None:
        """What was kept; None if nothing was.

        Raises:
            ValueError: it is damaged. OSError: it cannot be read.
        """
        try:
            found = json.loads(self._file.read_text())
        except FileNotFoundError:
            return None
        try:
            return Rollout.from_text(found["document"]), dict(found["ended"]), list(found["told"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self._file}: it is damaged ({error!r}); remove it") from error

    def _ended_elsewhere(self, document: Rollout) -> dict[str, dict[str, Any]]:
        try:
            found = self.load()
        except (OSError, ValueError):
            return {}
        return (
            {} if found is None else {name: about for name, about in found[1].items() if name == document.id}
        )
