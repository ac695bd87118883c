"""Answers that come before their request is complete."""

from __future__ import annotations

import re

from tests.unit.http_proxy.asking import request_to
from tests.unit.http_proxy.origin import OK, Client, Peer, answering, closing, counted, origin, proxy
from tests.waiting import WAIT_SECONDS, until


def test_an_early_final_answer_ends_the_connection_but_arrives() -> None:
    def refuse(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 413 Large\r\nDate: x\r\nContent-Length: 2\r\n\r\nno")
        peer.read_to_the_end()

    with origin(refuse) as server, proxy() as (_, port), Client(port) as client:
        client.send(request_to(server, "/", "Content-Length: 400000", method="POST") + "x" * 100_000)
        head, body = client.answer()
        assert head.startswith("HTTP/1.1 413")
        assert "\r\nConnection: close" in head
        assert body == b"no"
        client.send("x" * 100)
        client.end()
        assert client.rest() == b""


EARLY = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok"


def early(peer: Peer) -> None:
    """Answers the head of a request, reads its body to the end, and then serves another one."""
    length = re.search(rb"Content-Length: (\d+)", peer.read_until(b"\r\n\r\n"))
    peer.send(EARLY)
    while len(peer.received.partition(b"\r\n\r\n")[2]) < int(length[1]) if length else False:
        if not peer.read():
            return
    answering(OK)(peer)


def test_an_early_answer_does_not_cut_the_upload_that_it_answers() -> None:
    size = 3_000_000
    with origin(early) as server, proxy() as (_, port), Client(port) as client:
        client.send(request_to(server, "/", f"Content-Length: {size}", method="PUT"))
        assert client.answer()[1] == b"ok"
        client.send("x" * size)
        until(lambda: server.received.endswith(b"\r\n\r\n" + b"x" * size))
        client.send(request_to(server))
        assert client.answer()[1] == b"ok"
        assert len(server.peers) == 1


def test_a_client_that_has_its_answer_may_leave_before_its_upload_is_complete() -> None:
    with origin(early) as server, proxy() as (running, port), Client(port) as client:
        client.send(request_to(server, "/", "Content-Length: 9", method="PUT") + "half")
        assert client.answer()[1] == b"ok"
        client.end()
        assert client.rest() == b""
        assert server.peers[0].ended.wait(WAIT_SECONDS)
        until(lambda: running.call(running.server.open_connections) == 0)


def test_an_upload_that_is_answered_and_does_not_go_on_ends() -> None:
    with origin(early) as server, proxy(ANSWER_SECONDS="1") as (running, port), Client(port) as client:
        client.send(request_to(server, "/", "Content-Length: 9", method="PUT") + "half")
        assert client.answer()[1] == b"ok"
        assert client.rest() == b""
        assert counted(running, "limit_hits_total", limit="answer_seconds") == 1


def test_an_upload_that_is_answered_ends_when_the_origin_does() -> None:
    with origin(closing(EARLY)) as server, proxy() as (_, port), Client(port) as client:
        client.send(request_to(server, "/", "Content-Length: 9", method="PUT") + "half")
        assert client.answer()[1] == b"ok"
        assert client.rest() == b""
