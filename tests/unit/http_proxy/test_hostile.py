"""Both peers may lie. What counts is what the other side received, not only the status."""

from __future__ import annotations

import os
import random
import socket
import threading
import time

import pytest

from tests.unit.http_proxy.origin import (
    OK,
    Client,
    Peer,
    answering,
    closing,
    counted,
    forbidden,
    origin,
    proxy,
    unacknowledged,
)
from tests.waiting import WAIT_SECONDS, until

FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS", "3"))  # each; `make fuzz` takes longer


FRAMING = [
    "Content-Length: 4\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 4",
    "Content-Length: 4\r\nContent-Length: 40",
    "Content-Length: 4\r\nContent-Length: 4",
    "Content-Length: 4, 4",
    "Content-Length: +4",
    "Content-Length: -4",
    "Content-Length:",
    "Content-Length: 4_0",
    "Content-Length: 99999999999999999999",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding:\x0bchunked",
    "Transfer-Encoding: \x00chunked",
    "Content-Length : 4",
    "X: y\r\n Content-Length: 4",
    "X: y\rContent-Length: 4",
    "X: y\nContent-Length: 4",
    ": empty",
    "no colon",
    "Host: other.example",
    "Via: 1.1 egress-router",
    "Max-Forwards: -1",
]


@pytest.mark.parametrize("fields", FRAMING)
def test_nothing_of_an_ambiguous_request_reaches_the_origin(fields: str) -> None:
    smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    with origin(forbidden) as server, proxy() as (_, port):
        for method in ("POST", "OPTIONS"):
            if method == "POST" and fields.startswith("Max"):
                continue
            with Client(port) as client:
                client.send(
                    f"{method} http://{server.authority}/ HTTP/1.1\r\nHost: {server.authority}\r\n{fields}\r\n\r\n{smuggled}"
                )
                head = client.head()
                assert head[9:12] in {"400", "501", "502"}
                assert "Connection: close" in head
                assert b"HTTP/1.1 2" not in client.rest()
        assert server.received == b""


@pytest.mark.parametrize(
    "line",
    [
        "GET http://{0}/",
        "GET http://{0}/ HTTP/2.0",
        "GET http://{0}/ HTTP/0.9",
        "GET http://{0}/a b HTTP/1.1",
        "GET http://user:secret@{0}/ HTTP/1.1",
        "GET http://{0}#x HTTP/1.1",
        "GET http://{0},b.example/ HTTP/1.1",
        "GET https://{0}/ HTTP/1.1",
        "GET ftp://{0}/ HTTP/1.1",
        "GET urn:x HTTP/1.1",
        "GET / HTTP/1.1",
        "GET //{0}/ HTTP/1.1",
        "CONNECT http://{0}/ HTTP/1.1",
        "CONNECT user@{0} HTTP/1.1",
        "BREW http://{0}/ HTTP/1.1",
        "PRI * HTTP/2.0",
        "\x16\x03\x01\x02\x00\x01 ClientHello",
    ],
)
def test_nothing_of_a_wrong_request_line_reaches_the_origin(line: str) -> None:
    with origin(forbidden) as server, proxy() as (_, port), Client(port) as client:
        client.send(f"{line.format(server.authority)}\r\nHost: x\r\n\r\n")
        answer = client.rest()
        assert answer[9:12] in {b"400", b"501", b"505"}
        assert b"secret" not in answer
        assert server.received == b""


@pytest.mark.parametrize(
    "line", ["GET http://{0}/ HTTP/1.0\r\nContent-Length: 40", "CONNECT {0} HTTP/1.1\r\nHost: x\r\nContent-Length: 40"]
)  # fmt: skip
def test_bodies_where_there_are_none(line: str) -> None:
    with origin(forbidden) as server, proxy() as (_, port), Client(port) as client:
        client.send(line.format(server.authority) + "\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.rest()[9:12] == b"400"
        assert server.received == b""


@pytest.mark.parametrize(
    "chunk",
    [
        "0x4\r\nabcd\r\n",
        "4\nabcd\r\n",
        "-4\r\nabcd\r\n",
        "4 \r\nabcd\r\n",
        "4;\nx\r\nabcd\r\n",
        "4\r\nabcdX\r\n",
    ],
)
def test_a_bad_chunk_at_once_reaches_no_origin_and_a_late_one_no_end(chunk: str) -> None:
    with origin(Peer.read_to_the_end) as server, proxy() as (_, port):
        head = f"POST http://{server.authority}/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        with Client(port) as client:
            client.send(f"{head}{chunk}0\r\n\r\n")
            assert client.rest()[9:12] == b"400"
        assert server.received == b""
        with Client(port) as client:
            client.send(f"{head}2\r\nok\r\n")
            until(lambda: server.received.endswith(b"2\r\nok\r\n"))
            client.send(f"{chunk}0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n")
            assert client.rest()[9:12] == b"400"
        assert server.peers[-1].ended.wait(WAIT_SECONDS)
        assert b"0\r\n\r\n" not in server.received
        assert b"smuggled" not in server.received


def test_a_bad_chunk_is_refused_before_its_line_ends() -> None:
    with origin(Peer.read_to_the_end) as server, proxy() as (_, port), Client(port) as client:
        client.send(
            f"POST http://{server.authority}/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\n"
        )
        assert client.head().startswith("HTTP/1.1 400")


def test_a_client_that_leaves_in_its_body_does_not_complete_the_request() -> None:
    with origin(Peer.read_to_the_end) as server, proxy() as (_, port):
        with Client(port) as client:
            client.send(
                f"POST http://{server.authority}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"
            )
            until(lambda: server.received.endswith(b"half"))
        assert server.peers[0].ended.wait(WAIT_SECONDS)


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


@pytest.mark.parametrize("begun", [b"\x00", b"\x05\x01\x00", b"\x16\x03\x01\x02\x00\x01"])
def test_what_can_begin_no_request_is_refused_before_more_comes(begun: bytes) -> None:
    with proxy(HEAD_SECONDS="1000") as (_, port), Client(port) as client:
        client.send(begun)
        assert client.head().startswith("HTTP/1.1 400")


def test_a_client_that_speaks_tls_to_the_proxy_is_told_what_to_write(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with proxy() as (running, port), Client(port) as client:
        client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        _, body = client.answer()
        assert b"https_proxy=http://" in body
        assert counted(running, "refused_total", reason="tls") == 1
    (record,) = [each for each in caplog.records if "TLS" in each.getMessage()]
    assert "https_proxy=http://" in str(vars(record))


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


def test_what_a_client_sent_is_never_repeated() -> None:
    secret = "c2VjcmV0"
    heads = [
        f"GET http://b.example/<script>{secret} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic {secret}\r\n\r\n",
        f"GET http://{secret}:x@b.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
        f"{secret} http://b.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET http://b.example/ HTTP/1.1\r\nHost: x\r\n{secret}\r\n\r\n",
        f"TRACE http://127.0.0.1/ HTTP/1.1\r\nHost: x\r\nMax-Forwards: 0\r\nCookie: {secret}\r\n\r\n",
    ]
    with proxy() as (_, port):
        for head in heads:
            with Client(port) as client:
                client.send(head)
                assert secret.encode() not in client.rest()


TEMPLATES = [
    "GET http://{0}/ HTTP/1.1\r\nHost: {0}\r\nAccept: */*\r\n\r\n",
    "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: 5\r\n\r\nhello",
    "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\nGET / HTTP/1.1\r\n\r\n",
]
NOISE = [b"\r", b"\n", b"\x00", b" ", b":", b"\r\n", b",", b"\xff", b"0", b"chunked", b"\r\n\r\n", b"http://"]


def test_mutated_requests_leave_nothing_open() -> None:
    dice = random.Random(4)
    with origin(forbidden) as server, proxy(HEAD_SECONDS="1", ANSWER_SECONDS="1") as (running, port):
        end = time.monotonic() + FUZZ_SECONDS
        while time.monotonic() < end:
            data = bytearray(dice.choice(TEMPLATES).format(server.authority).encode())
            for _ in range(dice.randint(1, 4)):
                place = dice.randrange(len(data))
                data[place : place + dice.randint(0, 3)] = dice.choice(NOISE)
            with Client(port) as client:
                client.send(bytes(data))
                client.end()
                try:
                    answer = client.rest()
                except ConnectionResetError:
                    continue
                assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
        until(lambda: running.call(running.server.open_connections) == 0)
        running.call(running.server.stop_accepting)  # closes what waits for further requests
        until(lambda: all(peer.ended.is_set() for peer in server.peers))


def test_mutated_answers_leave_nothing_open() -> None:
    dice = random.Random(5)
    valid = [OK, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]

    def liar(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        data = bytearray(dice.choice(valid))
        for _ in range(dice.randint(1, 3)):
            place = dice.randrange(len(data))
            data[place : place + dice.randint(0, 3)] = dice.choice(NOISE)
        peer.send(bytes(data))

    with origin(liar) as server, proxy() as (running, port):
        end = time.monotonic() + FUZZ_SECONDS
        while time.monotonic() < end:
            with Client(port) as client:
                client.send(f"GET http://{server.authority}/ HTTP/1.1\r\nHost: x\r\n\r\n")
                client.end()
                try:
                    answer = client.rest()
                except ConnectionResetError:
                    continue
                assert answer.startswith(b"HTTP/1.1 ")
        until(lambda: running.call(running.server.open_connections) == 0)
        running.call(running.server.stop_accepting)  # closes what waits for further requests
        until(lambda: all(peer.ended.is_set() for peer in server.peers))
