"""The load generator against a small server of its own: what it sends, what it counts, and from when."""

import json
import socket
import threading
import time

import pytest

from tests.benchmarks.load import Requests, closed_loop, open_loop

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}'


class Server:
    """Answers each request on a thread a connection; ``answer(body, number on this connection)`` gives the bytes to send."""

    def __init__(self, answer):
        self.bodies, self._answer = [], answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(client,)))
            self._threads[-1].start()

    def _serve(self, client):
        with client, client.makefile("rb") as stream:
            number = 0
            while stream.readline():
                length = 0
                while (line := stream.readline()) != b"\r\n":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                body = stream.read(length)
                answer = self._answer(body, number)
                if answer is None:
                    return
                self.bodies.append(json.loads(body))
                number += 1
                for part in answer if isinstance(answer, list) else [answer]:
                    client.sendall(part)


@pytest.fixture
def serve(tmp_path):
    """Starts a server and returns it with requests to it."""
    servers = []

    def start(answer=lambda body, number: ANSWER, **changes):
        servers.append(Server(answer))
        path = tmp_path / "bodies.jsonl"
        path.write_bytes(b"".join(b'{"id": %d}\n' % i for i in range(200_000)))
        return servers[-1], Requests("127.0.0.1", servers[-1].port, "/v1/score", path, **changes)

    yield start
    for server in servers:
        server.close()


def test_each_request_is_sent_once_and_the_next_load_goes_on_where_this_one_ended(serve):
    server, requests = serve()
    first = closed_loop(requests, 3, 0.05)
    again = Requests(**{**vars(requests), "start": first.end})
    second = open_loop(again, 3, 1000, 0.05)
    assert sorted(body["id"] for body in server.bodies) == list(range(len(server.bodies)))
    assert len(first.latencies_s) + len(second.latencies_s) == len(server.bodies)
    assert len(second.latencies_s) == 50
    assert not first.others
    assert 0 < first.latencies_s.min() < first.seconds


def test_answers_that_are_not_as_expected_are_counted_apart(serve):
    def answer(body, number):
        if json.loads(body)["id"] % 3 == 0:
            return b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
        return ANSWER if json.loads(body)["id"] % 3 == 1 else ANSWER.replace(b"a", b"b")

    _, requests = serve(answer, expected=b'"a"')
    load = open_loop(requests, 1, 1000, 0.03)
    assert (len(load.latencies_s), load.others) == (10, {503: 10, 200: 10})


def test_an_answer_may_come_in_parts(serve):
    _, requests = serve(lambda body, number: [ANSWER[:20], ANSWER[20:40], ANSWER[40:]])
    assert len(open_loop(requests, 2, 1000, 0.02).latencies_s) == 20


def test_a_connection_that_the_server_has_closed_is_made_anew(serve):
    server, requests = serve(lambda body, number: ANSWER if number < 5 else None)
    load = open_loop(requests, 2, 1000, 0.02)
    assert len(load.latencies_s) == 20
    assert sorted(body["id"] for body in server.bodies) == list(range(20))


def test_who_waits_for_a_server_that_stalls_is_counted_from_when_it_was_due(serve):
    stall_s, rate = 0.3, 100

    def answer(body, number):
        time.sleep(stall_s if number == 0 else 0)
        return ANSWER

    _, requests = serve(answer)
    latencies = sorted(open_loop(requests, 1, rate, stall_s).latencies_s)
    # About thirty were due during the stall, one after the other; a closed loop would have seen one of them.
    assert latencies[-1] >= stall_s
    assert latencies[len(latencies) // 2] > stall_s / 4


def test_a_server_that_never_answers_is_given_up(serve):
    _, requests = serve(lambda body, number: None)
    with pytest.raises(ConnectionError, match="closed 3 connections without an answer"):
        open_loop(requests, 1, 1000, 0.01)


def test_running_out_of_requests_is_an_error(serve):
    _, requests = serve()
    last = b'{"id": 199999}\n'
    short = Requests(**{**vars(requests), "start": requests.bodies.stat().st_size - len(last)})
    with pytest.raises(ValueError, match="all of its requests were sent"):
        open_loop(short, 1, 1000, 0.05)
