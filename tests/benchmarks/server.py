"""The online store's server as a benchmark sees it: its client, the commands that it was sent, its memory and its network."""

import codecs
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from feast import FeatureStore

Command = list[bytes]

_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_FROM_SCRIPT = b" lua] "


def client_of(store: FeatureStore) -> Any:
    """The Redis client of the store's online store."""
    return store._get_provider().online_store._get_client(store.config.online_store)


def commands_of(client: Any, call: Callable[[], object]) -> list[Command]:
    """The commands that the server was sent during a call, those of scripts left out."""
    end = uuid4().hex.encode()
    connection = client.connection_pool.get_connection()
    try:
        connection.send_command("MONITOR")
        connection.read_response()
        call()
        client.echo(end)
        found: list[Command] = []
        while True:
            line = connection.read_response(disable_decoding=True)
            words = [codecs.escape_decode(word)[0] for word in _WORD.findall(line)]
            if end in words:
                return found
            if _FROM_SCRIPT not in line:
                found.append(words)
    finally:
        connection.disconnect()
        client.connection_pool.release(connection)


def replay(client: Any, commands: list[Command]) -> list[Any]:
    """Send the commands in one pipeline and return the answers: a bare pipelined read."""
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    return pipeline.execute()


def memory_of_keys(client: Any) -> int:
    """``MEMORY USAGE`` of all keys together."""
    total = 0
    batch: list[bytes] = []
    for key in [*client.scan_iter(count=1000), None]:
        if key is not None:
            batch.append(key)
        if len(batch) == 1000 or (key is None and batch):
            total += sum(replay(client, [[b"MEMORY", b"USAGE", each, b"SAMPLES", b"0"] for each in batch]))
            batch = []
    return total


def sent_bytes(client: Any) -> int:
    """How much the server has sent since its start."""
    return int(client.info("stats")["total_net_output_bytes"])


def used_memory(client: Any) -> int:
    """What the server's data and its own structures take."""
    return int(client.info("memory")["used_memory"])


def spent_s(client: Any) -> float:
    """Processor time that the server's thread that answers has taken so far, user and system."""
    about = client.info("cpu")
    return float(about["used_cpu_user_main_thread"]) + float(about["used_cpu_sys_main_thread"])


@contextmanager
def on_one_processor(client: Any) -> Iterator[None]:
    """This thread and the server's that answers share a processor, as a lone worker of the service has it."""
    everywhere, server = os.sched_getaffinity(0), int(client.info("server")["process_id"])
    try:
        for each in (0, server):
            os.sched_setaffinity(each, {min(everywhere)})
        yield
    finally:
        for each in (0, server):
            os.sched_setaffinity(each, everywhere)
