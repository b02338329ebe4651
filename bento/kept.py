"""The last champion that served here, kept beside the service: what a restart falls back on.

Without it, a service that restarts while the registry is down, or while its alias names a version that cannot
serve, would have no model, though the process before it had one.
"""

import os
import shutil
import tempfile
from pathlib import Path

from training.bundle import Bundle

__all__ = ["KeptChampion"]


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
