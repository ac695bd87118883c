"""Requests through a real proxy to real origins: in a row, pipelined, upgraded, decided anew; clients that end."""

from __future__ import annotations

import socket
import threading
from ipaddress import ip_address

import pytest

from tests.serving import LOOPS
from tests.unit.http_proxy.asking import request_to
from tests.unit.http_proxy.names import know
from tests.unit.http_proxy.origin import OK, Client, Peer, answering, counted, origin, proxy
from tests.waiting import WAIT_SECONDS, until


@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_a_connection_serves_requests_one_after_the_other_over_one_upstream(loop: str) -> None:
    with origin(answering(OK, OK)) as server, proxy(loop=loop) as (_, port), Client(port) as client:
        for path in ("/one?x", "/two"):
            client.send(request_to(server, path))
            head, body = client.answer()
            assert head == "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\nVia: 1.1 egress-router"
            assert body == b"ok"
        assert len(server.peers) == 1
        assert server.received.decode() == "".join(
            f"GET {path} HTTP/1.1\r\nHost: {server.authority}\r\nVia: 1.1 egress-router\r\n\r\n"
            for path in ("/one?x", "/two")
        )


def test_pipelined_requests_to_several_origins_are_answered_in_order() -> None:
    slow = threading.Event()

    def late(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        slow.wait(WAIT_SECONDS)
        peer.send(OK.replace(b"ok", b"1!"))
        peer.read_to_the_end()

    with origin(late) as one, origin(answering(OK, OK)) as two, proxy() as (_, port), Client(port) as client:
        client.send(request_to(one) + request_to(two) + request_to(two))
        slow.set()
        assert [client.answer()[1] for _ in range(3)] == [b"1!", b"ok", b"ok"]


def test_hundreds_of_pipelined_requests() -> None:
    count = 500
    with origin(answering(*[OK] * count)) as server, proxy() as (_, port), Client(port) as client:
        sender = threading.Thread(target=client.send, args=(request_to(server) * count,))
        sender.start()
        for _ in range(count):
            assert client.answer()[1] == b"ok"
        sender.join(WAIT_SECONDS)
        assert len(server.peers) == 1


def test_a_websocket_becomes_a_tunnel() -> None:
    def switch(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst")
        while data := peer.read():
            peer.send(data.upper())

    with origin(switch) as server, proxy() as (running, port), Client(port) as client:
        client.send(request_to(server, "/", "Connection: Upgrade", "Upgrade: websocket") + "frame")
        head = client.head()
        assert head.startswith("HTTP/1.1 101")
        assert "Connection: Upgrade\r\nUpgrade: websocket" in head
        assert client.take(10) == b"firstFRAME"
        assert b"Connection: Upgrade\r\nUpgrade: websocket" in server.received
        assert counted(running, "tunnels_open") == 1


def test_a_tunnel_that_was_denied_while_it_was_asked_for_ends() -> None:
    go = threading.Event()

    def switch(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        go.wait(WAIT_SECONDS)
        peer.send(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst")
        peer.read_to_the_end()

    with origin(switch) as server, proxy(drain_seconds=0.5) as (running, port), Client(port) as client:
        client.send(request_to(server, "/", "Connection: Upgrade", "Upgrade: websocket"))
        until(lambda: b"websocket" in server.received)
        running.apply("192.0.2.0/24\n")
        go.set()
        assert client.head().startswith("HTTP/1.1 101")
        with pytest.raises(ConnectionResetError):
            client.rest()


def test_a_request_that_may_go_no_further_is_answered_here() -> None:
    with origin(answering(OK)) as server, proxy() as (_, port):
        for method, status in (("OPTIONS", "204"), ("TRACE", "405")):
            with Client(port) as client:
                client.send(request_to(server, "/", "Max-Forwards: 0", "Cookie: secret", method=method))
                head, body = client.answer()
                assert head.startswith(f"HTTP/1.1 {status}")
                assert "secret" not in head
                assert body == b""
        with Client(port) as client:
            client.send(request_to(server, "/", "Max-Forwards: 3", method="OPTIONS"))
            assert client.head().startswith("HTTP/1.1 200")
        assert b"Max-Forwards: 2" in server.received
        assert len(server.peers) == 1


def test_each_request_is_decided_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    names = know(monkeypatch, a_example="127.0.0.1")
    with origin(answering(OK, OK)) as server, proxy("a.example\n") as (running, port), Client(port) as client:
        request = f"GET http://a.example:{server.port}/ HTTP/1.1\r\nHost: a.example\r\n\r\n"
        client.send(request)
        assert client.answer()[1] == b"ok"
        running.apply("!a.example\n*\n")
        client.send(request)
        assert client.head().startswith("HTTP/1.1 403")
        running.apply("a.example\n")
        with Client(port) as again:
            again.send(request)
            assert again.answer()[1] == b"ok"
            # the name has moved: the connection that is open leads to an address that is not its own any more
            names.table["a.example"] = (ip_address("127.0.0.3"),)
            again.send(request)
            assert again.head().startswith("HTTP/1.1 502")


def test_a_client_that_has_ended_its_side_gets_its_answer() -> None:
    with origin(answering(OK)) as server, proxy() as (_, port), Client(port) as client:
        client.send(request_to(server))
        client.end()
        assert client.answer()[1] == b"ok"
        assert client.rest() == b""


def test_a_client_that_resets_ends_its_upstream() -> None:
    with origin(Peer.read_to_the_end) as server, proxy() as (running, port):
        with Client(port) as client:
            client.send(request_to(server))
            until(lambda: b"\r\n\r\n" in server.received)
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        assert server.peers[0].ended.wait(WAIT_SECONDS)
        until(lambda: running.call(running.server.open_connections) == 0)
