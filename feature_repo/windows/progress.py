"""How far a long retrieval has come, shown to a person at a terminal and to no one else."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Sooner than this nobody wonders.
_PATIENCE_S = 2.0


@contextmanager
def shown(
    text: str, console: Console | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int, int], None]]:
    """Give a function of ``(done, total)`` rows that draws a bar on standard error, and takes it away at the end.

    Nothing is drawn where standard error is no terminal, nor before two seconds have passed.
    """
    console = console or Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True,
    )  # fmt: skip
    task = bar.add_task(text, total=None)
    begun = clock()

    def advance(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        if console.is_terminal and not bar.live.is_started and clock() - begun >= _PATIENCE_S:
            bar.start()

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()
