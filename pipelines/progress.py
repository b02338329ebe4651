"""How long work tells where it is: a plain callback, and its display on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

__all__ = ["Progress", "quiet", "shown"]

Progress = Callable[[str, int, int], None]
"""``progress(step, done, total)``: ``step`` names the work, ``total`` is 0 while it is not known."""


def quiet(step: str, done: int, total: int) -> None:
    """A progress callback that shows nothing."""


@contextmanager
def shown(console: Console) -> Iterator[Progress]:
    """A progress callback that draws one bar a step on ``console``; a finished step's bar stays."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with RichProgress(*columns, console=console) as bars:
        tasks = {task.description: task.id for task in bars.tasks}

        def progress(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=None)
            bars.update(tasks[step], completed=done, total=total or None)

        yield progress
