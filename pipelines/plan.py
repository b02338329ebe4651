"""``fraud plan``: what ``feast apply`` would change, and what that comes to, before anything is changed.

It goes by what features mean, not by what Feast writes down of them: a view whose every feature gives the same bits as
before is not listed. It writes nothing, and asks the online store nothing.
"""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from feature_repo.settings import settings
from feature_repo.store import declared_store, open_store
from pipelines.plan_changes import NOTHING, FeatureChange, ServiceChange, changes, meanings, to_rebuild
from pipelines.plan_effects import Model, Rebuild, Sample, models, rebuild, sample
from pipelines.progress import Progress, quiet

__all__ = ["SAMPLE_ROWS", "Planned", "plan"]

SAMPLE_ROWS = 20


@dataclass(frozen=True)
class Planned:
    """What would change.

    Attributes:
        first: nothing is registered yet.
        features, services: what comes, goes or means something else. models: registered versions that read it.
        rebuilt: state to be loaded after the apply. sample: values before and after.
    """

    first: bool
    features: tuple[FeatureChange, ...]
    services: tuple[ServiceChange, ...]
    models: tuple[Model, ...]
    rebuilt: tuple[Rebuild, ...]
    sample: Sample

    @property
    def changes(self) -> bool:
        """Whether an apply changes anything that is read, or any state."""
        return bool(self.features or self.services or self.rebuilt)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self) | {"changes": self.changes}


def plan(rows: int = SAMPLE_ROWS, progress: Progress = quiet) -> Planned:
    """Compare ``definitions.py`` with the registry.

    Args:
        rows: transactions in the sample.
    """
    here = settings()
    with tempfile.TemporaryDirectory() as folder:
        declared = declared_store(Path(folder))
        registered = open_store() if (here.home / "registry.db").exists() else None
        progress("comparing definitions", 0, 4)
        was = NOTHING if registered is None else meanings(registered)
        now = meanings(declared)
        features, services = changes(was, now)
        progress("comparing definitions", 1, 4)
        touched = models(here, services)
        progress("comparing definitions", 2, 4)
        rebuilt = rebuild(declared, to_rebuild(was, now))
        progress("comparing definitions", 3, 4)
        values = sample(registered, declared, features, here.lake, rows) if rows else Sample()
        progress("comparing definitions", 4, 4)
    return Planned(
        registered is None, tuple(features), tuple(services), tuple(touched), tuple(rebuilt), values
    )
