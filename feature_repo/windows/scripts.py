"""The Lua scripts that write state, each atomic on the server."""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import redis

Call = tuple[list[bytes], list[Any]]


class Script:
    """A script by its digest, loaded on the server when it turns out to be missing (a new server, or one restarted)."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def run(self, client: Any, calls: Sequence[Call]) -> list[Any]:
        """Run once for each (keys, arguments), in order, in one round trip; returns each answer.

        Raises:
            redis.RedisError: the server could not do it. Calls before the failed one have been carried out; running all of
                them again is safe, since states count an event once.
        """
        answers = self._send(client, calls)
        if any(isinstance(answer, redis.exceptions.NoScriptError) for answer in answers):
            client.script_load(self._source)
            answers = self._send(client, calls)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _send(self, client: Any, calls: Sequence[Call]) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        for keys, arguments in calls:
            pipeline.execute_command("EVALSHA", self._digest, len(keys), *keys, *arguments)
        answers: list[Any] = pipeline.execute(raise_on_error=False)
        return answers


@cache
def script(name: str) -> Script:
    """The script of this folder with this name: ``record`` or ``load``."""
    return Script((Path(__file__).parent / f"{name}.lua").read_text())
