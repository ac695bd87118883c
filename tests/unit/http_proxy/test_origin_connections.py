"""Which connection to an origin a request goes over: kept ones, shared ones, those that died, those of one client."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from tests.unit.http_proxy.asking import request_to
from tests.unit.http_proxy.names import know
from tests.unit.http_proxy.origin import OK, Client, Peer, answering, closing, counted, origin, proxy
from tests.waiting import WAIT_SECONDS


def once(peer: Peer) -> None:
    """Answers one request of a connection and closes on the second, as a server whose idle time is over."""
    peer.read_until(b"\r\n\r\n")
    peer.send(OK)
    peer.read_until(b"\r\n\r\n")


def test_a_reused_connection_that_dies_is_replaced_once_for_safe_repeats() -> None:
    with origin(once) as server, proxy() as (_, port), Client(port) as client:
        for _ in range(3):
            client.send(request_to(server))
            assert client.answer()[1] == b"ok"
        assert len(server.peers) == 3


@pytest.mark.parametrize(("method", "length"), [("POST", 0), ("PUT", 1)])
def test_what_is_not_safe_to_repeat_goes_over_a_connection_of_its_own(method: str, length: int) -> None:
    with origin(once) as server, proxy() as (_, port), Client(port) as client:
        client.send(request_to(server))
        client.answer()
        client.send(request_to(server, "/", f"Content-Length: {length}", method=method) + "x" * length)
        assert client.answer()[1] == b"ok"
        assert len(server.peers) == 2
        assert server.peers[0].received.count(b"HTTP/1.1\r\n") == 1


def test_clients_at_one_address_share_connections_one_after_the_other() -> None:
    with origin(answering(OK, OK)) as server, proxy() as (_, port):
        for _ in range(2):
            with Client(port) as client:
                client.send(request_to(server, "/", "Connection: close"))
                assert client.answer()[1] == b"ok"
                assert client.rest() == b""
        assert len(server.peers) == 1


def test_clients_at_different_addresses_share_nothing() -> None:
    with origin(answering(OK, OK)) as server, proxy() as (_, port):
        for address in ("127.0.0.1", "127.0.0.2"):
            with socket.create_connection(
                ("127.0.0.1", port), WAIT_SECONDS, source_address=(address, 0)
            ) as client:
                client.sendall(request_to(server, "/", "Connection: close").encode())
                while client.recv(1000):
                    pass
        assert len(server.peers) == 2


@pytest.mark.parametrize(
    ("field", "answer"),
    [
        ("Authorization: NTLM eA==", OK),
        ("Authorization: negotiate eA==", OK),
        ("X: y", OK.replace(b"Date: x", b"WWW-Authenticate: NTLM")),
    ],
)
def test_a_connection_that_is_authenticated_stays_with_its_client_connection(
    field: str, answer: bytes
) -> None:
    with origin(answering(answer, OK)) as server, proxy() as (_, port):
        with Client(port) as client, Client(port) as other:
            client.send(request_to(server, "/", field))
            client.answer()
            other.send(request_to(server))
            other.answer()
            client.send(request_to(server))
            client.answer()
            assert [peer.received.count(b"HTTP/1.1\r\n") for peer in server.peers] == [2, 1]
        assert server.peers[0].ended.wait(WAIT_SECONDS)


def test_a_connection_that_its_origin_will_close_is_not_used_again() -> None:
    last = OK.replace(b"Date: x", b"Connection: close")
    for answer in (last, OK.replace(b"HTTP/1.1", b"HTTP/1.0")):
        with origin(answering(answer, OK)) as server, proxy() as (_, port), Client(port) as client:
            for _ in range(2):
                client.send(request_to(server))
                assert client.answer()[1] == b"ok"
            assert len(server.peers) == 2


def test_an_authenticated_connection_is_not_used_for_an_address_that_is_no_longer_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = know(monkeypatch, a_example="127.0.0.1")
    with origin(answering(OK, OK)) as server, proxy("a.example\n") as (_, port), Client(port) as client:
        request = f"GET http://a.example:{server.port}/ HTTP/1.1\r\nHost: x\r\nAuthorization: NTLM x\r\n\r\n"
        client.send(request)
        assert client.answer()[1] == b"ok"
        names.table["a.example"] = (ip_address("127.0.0.3"),)
        client.send(request)
        assert client.head().startswith("HTTP/1.1 502")


def test_idle_upstreams_are_let_go() -> None:
    with origin(answering(OK, OK)) as server, proxy(KEEPALIVE_SECONDS="0.1") as (_, port):
        with Client(port) as client:
            client.send(request_to(server))
            client.answer()
        assert server.peers[0].ended.wait(WAIT_SECONDS)


def test_a_fresh_connection_that_dies_is_not_replaced() -> None:
    def leave(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")

    with origin(leave) as server, proxy() as (running, port), Client(port) as client:
        client.send(request_to(server))
        assert client.head().startswith("HTTP/1.1 502")
        assert len(server.peers) == 1
        assert counted(running, "upstream_failures_total", reason="incomplete") == 1


def test_idle_upstreams_that_close_are_let_go() -> None:
    with origin(closing(OK)) as server, proxy() as (_, port), Client(port) as client:
        for number in range(1, 4):
            client.send(request_to(server))
            assert client.answer()[1] == b"ok"
            assert server.peers[-1].ended.wait(WAIT_SECONDS)
            assert len(server.peers) == number
