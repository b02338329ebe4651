"""Waiting for no longer than so long: as ``asyncio.timeout`` does, on either event loop."""

import asyncio

import pytest
import uvloop

from bento import exchange
from bento.patience import Within
from bento.problem import Problem

RUNS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


async def at_once():
    return "value"


async def after(seconds, value="value"):
    await asyncio.sleep(seconds)
    return value


async def failing():
    await asyncio.sleep(0)
    raise ValueError("its own")


async def stubborn():
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        return "in the end"


@RUNS
def test_what_is_there_in_time_is_returned(run):
    async def asking():
        return [
            await Within(each, 5)
            for each in (at_once(), after(0), after(0.01), asyncio.wait_for(after(0), 1))
        ]

    assert run(asking()) == ["value"] * 4


@RUNS
def test_what_takes_longer_is_ended_and_the_task_goes_on(run):
    async def asking():
        with pytest.raises(TimeoutError, match=r"longer than 0.01 s"):
            await Within(after(10), 0.01)
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0.02)
        return await Within(after(0), 5)

    assert run(asking()) == "value"


@RUNS
def test_what_fails_by_itself_says_so(run):
    async def asking():
        await Within(failing(), 5)

    with pytest.raises(ValueError, match="its own"):
        run(asking())


@RUNS
def test_who_is_cancelled_by_others_is_cancelled(run):
    async def asking():
        task = asyncio.create_task(_awaiting(after(10)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return task.cancelled()

    assert run(asking())


async def _awaiting(coroutine):
    return await Within(coroutine, 5)


@RUNS
def test_what_answers_when_it_is_ended_has_answered(run):
    async def asking():
        return await Within(stubborn(), 0.01), asyncio.current_task().cancelling()

    assert run(asking()) == ("in the end", 0)


@RUNS
def test_a_body_that_does_not_come_is_not_waited_for(run, monkeypatch):
    monkeypatch.setattr(exchange, "BODY_S", 0.05)
    scope = {"headers": [(b"content-type", b"application/json")]}

    async def never():
        await asyncio.Event().wait()

    async def trickling():
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    for receive in (never, trickling):
        with pytest.raises(Problem, match=r"the body was not there within 0.05 s") as raised:
            run(exchange.read_body(scope, receive))
        assert (raised.value.kind, raised.value.status) == ("deadline-passed", 503)


def test_a_body_in_pieces_is_read():
    pieces = iter([b"{", b"}"])

    async def receive():
        await asyncio.sleep(0.001)
        piece = next(pieces)
        return {"type": "http.request", "body": piece, "more_body": piece == b"{"}

    scope = {"headers": [(b"content-type", b"application/json")]}
    assert asyncio.run(exchange.read_body(scope, receive)) == b"{}"
