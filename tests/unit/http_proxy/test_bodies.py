"""Bodies through a real proxy: counted, in chunks, to the end, none at all; slow readers hold writers back."""

from __future__ import annotations

import re
import threading

import pytest

from tests.unit.http_proxy.asking import request_to
from tests.unit.http_proxy.origin import (
    OK,
    Client,
    Peer,
    answering,
    closing,
    counted,
    origin,
    proxy,
    sent_at_once,
)
from tests.waiting import WAIT_SECONDS, until


def echo_body(peer: Peer) -> None:
    """Answers with the request's body as it came, and how it was framed."""
    head, _, body = peer.read_until(b"\r\n\r\n").partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while len(body) < int(length[1]) if length else not body.endswith(b"0\r\n\r\n"):
        start = len(peer.received)
        if not peer.read():
            return
        body += peer.received[start:]
    peer.send(b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    peer.read_to_the_end()


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
def test_counted_bodies_go_through(size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with origin(echo_body) as server, proxy() as (_, port), Client(port) as client:
        client.send(request_to(server, "/", f"Content-Length: {size}", method="POST").encode() + body)
        assert client.answer()[1] == body


def test_chunked_bodies_are_written_anew_with_their_trailers() -> None:
    with origin(echo_body) as server, proxy() as (_, port), Client(port) as client:
        client.send(request_to(server, "/", "Transfer-Encoding: chunked", method="PUT"))
        client.send("00005;x=y\r\nhel")
        client.send("lo\r\n0\r\n\r\n")
        assert client.answer()[1] == b"5\r\nhello\r\n0\r\n\r\n"
        assert b"\r\nTransfer-Encoding: chunked\r\n" in server.received


CHUNKED = b"HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_chunked_answers_keep_the_connection_and_their_trailers() -> None:
    sent = CHUNKED + b"05;x\r\nhello\r\n0\r\nSum: 1\r\nHost: x\r\n\r\n"
    with origin(answering(sent, OK)) as server, proxy() as (_, port), Client(port) as client:
        client.send(request_to(server) + request_to(server))
        assert "Transfer-Encoding: chunked" in client.head()
        assert client.take(23) == b"5\r\nhello\r\n0\r\nSum: 1\r\n\r\n"
        assert client.answer()[1] == b"ok"
        assert len(server.peers) == 1


def test_clients_of_http_1_0_get_no_chunks_and_no_interim_answers() -> None:
    sent = b"HTTP/1.1 103 Hints\r\n\r\n" + CHUNKED + b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"
    with origin(answering(sent)) as server, proxy() as (_, port), Client(port) as client:
        client.send(request_to(server, version="1.0"))
        assert client.head() == "HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\nVia: 1.1 egress-router"
        assert client.rest() == b"hello!"
        assert b"HTTP/1.1\r\n" in server.received
        assert b"Via: 1.0 egress-router" in server.received


def test_answers_that_end_with_their_connection() -> None:
    body = b"x" * 500_000
    answer = b"HTTP/1.1 200 OK\r\nDate: x\r\n\r\n" + body
    with origin(closing(answer)) as server, proxy() as (_, port), Client(port) as client:
        client.send(request_to(server))
        assert "Connection: close" in client.head()
        assert client.rest() == body


def test_head_204_and_304_have_no_body() -> None:
    answers = [
        b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 1000\r\n\r\n",
        b"HTTP/1.1 204 No\r\nDate: x\r\n\r\n",
        b"HTTP/1.1 304 No\r\nDate: x\r\nContent-Length: 1000\r\n\r\n",
        OK,
    ]
    with origin(answering(*answers)) as server, proxy() as (_, port), Client(port) as client:
        client.send(request_to(server, method="HEAD"))
        assert "Content-Length: 1000" in client.head()
        client.send(request_to(server))
        assert client.head().startswith("HTTP/1.1 204")
        client.send(request_to(server))
        assert client.head().startswith("HTTP/1.1 304")
        client.send(request_to(server))
        assert client.answer()[1] == b"ok"
        assert len(server.peers) == 1


@pytest.mark.parametrize(
    "text",
    [
        "HEAD https://a.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
        "HEAD http://a.example/ HTTP/1.1\r\nHost: x\r\nExpect: y\r\n\r\n",
        "HEAD http://192.0.2.1/ HTTP/1.1\r\nHost: x\r\n\r\n",
        "HEAD http://a.example/ HTTP/1.1\r\nHost",
        "HEAD http://a.example/" + 3000 * "x",
        "HEAD http://a.example/ HTTP/1.1\r\nHost: x\r\nX: " + "y" * 3000 + "\r\n\r\n",
    ],
)
def test_what_the_proxy_itself_answers_to_head_has_no_body(text: str) -> None:
    with (
        proxy(HEAD_SECONDS="0.2", HEAD_BYTES="2048") as (running, port),
        sent_at_once(running, port, text) as client,
    ):
        assert client.head()[9:12] in {"400", "403", "408", "414", "417", "431"}
        assert client.rest() == b""


def test_expect_continue_passes_both_ways() -> None:
    def patient(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.read_until(b"body")
        peer.send(OK)

    with origin(patient) as server, proxy() as (_, port), Client(port) as client:
        client.send(request_to(server, "/", "Content-Length: 4", "Expect: 100-continue", method="POST"))
        assert client.head().startswith("HTTP/1.1 100")
        client.send("body")
        assert client.answer()[1] == b"ok"
        assert b"\r\nExpect: 100-continue\r\n" in server.received


def test_bodies_in_tiny_chunks_go_through_whole() -> None:
    body = b"1\r\nx\r\n" * 60_000 + b"0\r\n\r\n"
    with origin(echo_body) as server, proxy() as (_, port), Client(port) as client:
        client.send(request_to(server, "/", "Transfer-Encoding: chunked", method="POST").encode() + body)
        assert client.answer()[1] == body
    with origin(answering(CHUNKED + body, CHUNKED + body)) as server, proxy() as (_, port):
        with Client(port) as client:
            client.send(request_to(server))
            client.head()
            assert client.take(len(body)) == body
        with Client(port) as client:
            client.send(request_to(server, version="1.0"))
            client.head()
            assert client.rest() == b"x" * 60_000


def test_slow_readers_hold_their_writers_back() -> None:
    size = 30_000_000
    sent = threading.Event()

    def flood(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 100_000):
            peer.send(b"x" * 100_000)
        sent.set()
        peer.read_to_the_end()

    with origin(flood) as server, proxy() as (running, port), Client(port) as client:
        client.send(request_to(server))
        until(lambda: counted(running, "limit_hits_total", limit="buffer_bytes") > 0)
        assert not sent.is_set()
        client.head()
        left = size - len(client.buffer)
        while left:
            left -= len(client.sock.recv(1_000_000))
        assert sent.wait(WAIT_SECONDS)


def test_slow_origins_hold_their_clients_back() -> None:
    size = 30_000_000
    read = threading.Event()

    def slow(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        read.wait(WAIT_SECONDS)
        left = size - len(peer.received.partition(b"\r\n\r\n")[2])
        while left:  # not kept: to add to 30 MB again and again takes seconds
            left -= len(peer.sock.recv(1_000_000))
        peer.send(OK)
        peer.read_to_the_end()

    with origin(slow) as server, proxy() as (running, port), Client(port) as client:
        data = request_to(server, "/", f"Content-Length: {size}", method="POST").encode() + b"x" * size
        sender = threading.Thread(target=client.send, args=(data,))
        sender.start()
        until(lambda: counted(running, "limit_hits_total", limit="buffer_bytes") > 0)
        assert sender.is_alive()
        read.set()
        assert client.answer()[1] == b"ok"
        sender.join(WAIT_SECONDS)
