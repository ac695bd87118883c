"""Origins that lie. What counts is what the client received, not only the status."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.unit.http_proxy.origin import (
    OK,
    Client,
    Peer,
    answering,
    closing,
    counted,
    origin,
    proxy,
    unacknowledged,
)
from tests.waiting import WAIT_SECONDS, until

BAD_ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: y\rz\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: y\x00z\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok\r\n\r\n",
    b"HTTP/2 200\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"ICY 200 OK\r\n\r\n",
    b"hello\r\n\r\n",
    b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
    b"HTTP/1.1 200 OK\r\nX: y",
    b"",
]


@pytest.mark.parametrize("answer", BAD_ANSWERS)
def test_nothing_of_a_bad_answer_reaches_the_client(answer: bytes) -> None:
    with origin(closing(answer)) as server, proxy() as (_, port), Client(port) as client:
        client.send(f"GET http://{server.authority}/ HTTP/1.1\r\nHost: x\r\n\r\n")
        head, body = client.answer()
        assert head.startswith("HTTP/1.1 502")
        assert b"ok" not in body.replace(b"token", b"")
        assert client.rest() == b""


@pytest.mark.parametrize("wanted", ["", "Connection: Upgrade\r\nUpgrade: other\r\n"])
@pytest.mark.parametrize("fields", [b"", b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"Upgrade: \r\n"])
def test_an_unsolicited_101_is_named_as_that(wanted: str, fields: bytes) -> None:
    answer = b"HTTP/1.1 101 Go\r\n" + fields + b"\r\n"
    with origin(closing(answer)) as server, proxy() as (running, port), Client(port) as client:
        client.send(f"GET http://{server.authority}/ HTTP/1.1\r\nHost: x\r\n{wanted}\r\n")
        head, body = client.answer()
        assert head.startswith("HTTP/1.1 502")
        assert b"unsolicited 101" in body
        assert counted(running, "upstream_failures_total", reason="unsolicited_switch") == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
    ],
)
def test_an_answer_cut_short_is_cut_short_for_the_client(answer: bytes) -> None:
    with origin(closing(answer)) as server, proxy() as (_, port), Client(port) as client:
        client.send(f"GET http://{server.authority}/ HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            client.rest()


def test_an_answer_without_length_that_ends_in_a_reset_is_cut_short() -> None:
    def cut(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        go.wait(WAIT_SECONDS)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        peer.sock.close()

    go = threading.Event()
    with origin(cut) as server, proxy() as (_, port), Client(port) as client:
        client.send(f"GET http://{server.authority}/ HTTP/1.1\r\nHost: x\r\n\r\n")
        client.head()
        assert client.take(4) == b"half"
        go.set()
        with pytest.raises(ConnectionResetError):
            client.rest()


def test_bytes_behind_an_answer_are_never_the_next_one() -> None:
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    for surplus in (OK + evil, b"HTTP/1.1 204 No\r\nContent-Length: 99\r\n\r\n" + evil):
        with origin(answering(surplus, OK)) as server, proxy() as (_, port), Client(port) as client:
            client.send(f"GET http://{server.authority}/ HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
            client.answer()
            assert client.head().endswith("Via: 1.1 egress-router")
            assert client.buffer[:4] != b"evil"
            assert len(server.peers) == 2


def test_bytes_on_an_idle_upstream_are_never_an_answer() -> None:
    def impatient(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        peer.send(OK)
        answered.acquire(timeout=WAIT_SECONDS)  # unasked, when the proxy has passed the answer on
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        peer.read_to_the_end()

    answered = threading.Semaphore(0)
    with origin(impatient) as server, proxy() as (_, port), Client(port) as client:
        for _ in range(2):
            client.send(f"GET http://{server.authority}/ HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.answer()[1] == b"ok"
            answered.release()
            assert server.peers[-1].ended.wait(WAIT_SECONDS)
        assert len(server.peers) == 2


@pytest.mark.parametrize("field", ["X: y", "Authorization: NTLM x"])
def test_bytes_that_came_before_a_request_are_not_its_answer(field: str) -> None:
    def impatient(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        peer.send(OK)
        go.wait(WAIT_SECONDS)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        sent.set()
        peer.read_to_the_end()

    go, sent = threading.Event(), threading.Event()
    with origin(impatient) as server, proxy() as (running, port), Client(port) as client:
        text = f"GET http://{server.authority}/ HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n"
        client.send(text)
        assert client.answer()[1] == b"ok"

        def at_one_time() -> None:
            """Both come while the worker is busy, the request first."""
            client.send(text)
            client.delivered()
            go.set()
            sent.wait(WAIT_SECONDS)
            until(lambda: unacknowledged(server.peers[0].sock) == 0)

        running.call(at_one_time)
        assert client.answer()[1] == b"ok"
        assert len(server.peers) == 2


def test_answers_do_not_split() -> None:
    answer = b"HTTP/1.1 200 OK\r\nDate: x\r\nConnection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n"
    with origin(closing(answer)) as server, proxy() as (_, port), Client(port) as client:
        client.send(f"GET http://{server.authority}/%0d%0aX:%20y HTTP/1.1\r\nHost: x\r\n\r\n")
        assert "X-Hop" not in client.head()
        assert b"/%0d%0aX:%20y HTTP/1.1" in server.received
