"""The Lua scripts that write state, each atomic on the server."""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import redis

from feature_repo.windows.wire import bulk, checked, command, exchange

Call = tuple[Sequence[bytes], Sequence[bytes | str | int]]


class Script:
    """A script by its digest, loaded on the server when it turns out to be missing (a new server, or one restarted)."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        self._named = bulk("EVALSHA") + bulk(self._digest)

    def call(self, keys: Sequence[bytes], arguments: Sequence[bytes], count: int) -> bytes:
        """A call, packed.

        Args:
            keys, arguments: packed by ``wire.bulk``, arguments one or several in a piece. count: how many there are of these.
        """
        head = b"*%d\r\n%b$%d\r\n%d\r\n" % (
            3 + len(keys) + count,
            self._named,
            len(b"%d" % len(keys)),
            len(keys),
        )
        return head + b"".join(keys) + b"".join(arguments)

    def run(self, client: Any, calls: Sequence[Call]) -> list[Any]:
        """Run once for each (keys, arguments), as ``send``."""
        packed = [
            self.call(list(map(bulk, keys)), list(map(bulk, arguments)), len(arguments))
            for keys, arguments in calls
        ]
        return self.send(client, packed)

    def send(self, client: Any, calls: Sequence[bytes]) -> list[Any]:
        """Carry packed calls out in order, in one round trip; returns each answer.

        Raises:
            redis.RedisError: the server could not do it. Calls before the failed one have been carried out; running all of
                them again is safe, since states count an event once.
        """
        answers = exchange(client, calls)
        if any(isinstance(answer, redis.exceptions.NoScriptError) for answer in answers):
            checked(exchange(client, [command("SCRIPT", "LOAD", self._source)]))
            answers = exchange(client, calls)
        return checked(answers)


@cache
def script(name: str) -> Script:
    """The script of this folder with this name: ``record``, ``load``...."""
    return Script((Path(__file__).parent / f"{name}.lua").read_text())
