"""``fraud backfill``: load history into the state of views that lack it, while the service goes on.

The order is what loses nothing: running recorders first write the new definitions, then what they recorded before that is
taken from the journal into the lake, then the lake is loaded. Views that are computed from others go through this after them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO

from feature_repo.settings import settings
from feature_repo.store import open_store
from feature_repo.windows.live import await_recorders, lacking
from feature_repo.windows.recorder import windowed_specs
from feature_repo.windows.resolve import with_bases
from feature_repo.windows.spec import ViewSpec
from pipelines.load_journal import load_journal
from pipelines.progress import Progress, quiet
from pipelines.train import known_until

__all__ = ["Backfilled", "backfill"]

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_ANY_END = 2**62


@dataclass(frozen=True)
class Backfilled:
    """What was loaded: views, by name, and the known time up to which."""

    views: tuple[str, ...]
    end: datetime | None

    def summary(self) -> str:
        """One line."""
        if self.end is None:
            return "every windowed view has its history"
        return f"loaded events known before {self.end.isoformat()} into {', '.join(self.views)}"


def backfill(views: Sequence[str] = (), progress: Progress = quiet) -> Backfilled:
    """Load all that the lake and the journal hold into the views that lack history.

    Args:
        views: load these, whatever they have; default: those that lack history.

    Raises:
        FileNotFoundError: the lake is empty. ValueError: no such view; one that others are computed from is not registered;
            or a running recorder does not take up a definition.
        RuntimeError: Feast's materialization failed.
    """
    here, store = settings(), open_store()
    specs = {spec.view: spec for spec in windowed_specs(store)}
    unknown = sorted(set(views) - set(specs))
    if unknown:
        raise ValueError(f"view {unknown[0]!r}: not a registered windowed view; there are {', '.join(specs)}")
    client = store._get_provider().online_store._get_client(store.config.online_store)
    given = [specs[name] for name in dict.fromkeys(views)]
    wanted = given or lacking(client, store.project, specs.values())
    _refuse_unregistered(wanted, specs)
    loaded: list[str] = []
    end = None
    for some in _in_turn(wanted):
        for spec in some:
            await_recorders(client, store.project, spec, _ANY_END)
        load_journal(here.journal, here.lake, progress=progress)
        end = known_until(here.lake)
        for spec in some:
            progress("loading views", len(loaded), len(wanted))
            # Feast prints its own progress, made for its own command line.
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                store.materialize(_BEGINNING, end, feature_views=[spec.view])
            loaded.append(spec.view)
        progress("loading views", len(loaded), len(wanted))
    return Backfilled(tuple(loaded), end)


def _refuse_unregistered(wanted: Iterable[ViewSpec], registered: Mapping[str, ViewSpec]) -> None:
    for spec in wanted:
        found = registered.get(spec.view)
        if found is None or found.state_digest != spec.state_digest:
            raise ValueError(
                f"view {spec.view!r}: columns of other views are computed from it, and it is not registered as they have it; "
                "name it in definitions.py, and run feast apply"
            )


def _in_turn(specs: Sequence[ViewSpec]) -> Iterator[list[ViewSpec]]:
    """Views that are computed from others come after those: recorders write them only once those have their history."""
    waiting = list(specs)
    while waiting:
        names = {spec.view for spec in waiting}
        ready = [spec for spec in waiting if names.isdisjoint(base.view for base in with_bases([spec])[1:])]
        yield ready
        waiting = [spec for spec in waiting if spec not in ready]
