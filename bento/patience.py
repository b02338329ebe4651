"""Waiting for no longer than so long, at no cost where there is nothing to wait for."""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

__all__ = ["Within"]

_Result = TypeVar("_Result")


class Within(Generic[_Result]):
    """``await Within(coroutine, seconds)``: what it returns, or ``TimeoutError`` when it takes longer.

    As ``asyncio.timeout``, which sets a timer each time and takes longer for that than all else that is done to read a body.
    Here one is set only once the coroutine has to wait, which that of a body which came with its head has not.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, _Result], seconds: float) -> None:
        self._coroutine, self._seconds = coroutine, seconds

    def __await__(self) -> Generator[Any, Any, _Result]:
        steps = self._coroutine.__await__()
        try:
            awaited = next(steps)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        return (yield from self._timed(steps, awaited))

    def _timed(self, steps: Generator[Any, Any, _Result], awaited: Any) -> Generator[Any, Any, _Result]:
        task, late = asyncio.current_task(), False
        if task is None:
            raise RuntimeError("nothing is awaited outside a task")

        before = task.cancelling()

        def interrupt() -> None:
            nonlocal late
            late = True
            task.cancel()

        timer = asyncio.get_running_loop().call_later(self._seconds, interrupt)
        try:
            while True:
                try:
                    sent = yield awaited
                except BaseException as error:  # whatever the loop throws into the task is the coroutine's
                    awaited = steps.throw(error)
                else:
                    awaited = steps.send(sent)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            if not late or task.cancelling() > before + 1:
                raise  # others cancel the task, whether or not it was late too
            raise TimeoutError(f"it takes longer than {self._seconds} s") from None
        finally:
            timer.cancel()
            if late:
                task.uncancel()
