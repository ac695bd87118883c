"""Clients that lie. What counts is what the origin received, not only the status."""

from __future__ import annotations

import pytest

from tests.unit.http_proxy.origin import Client, Peer, counted, forbidden, origin, proxy
from tests.waiting import WAIT_SECONDS, until

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
        assert server.received.endswith(b"\r\n\r\nhalf")


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
