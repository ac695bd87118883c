from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING

import pytest

from egress_router.http_proxy import server as server_module
from egress_router.http_proxy.acceptor import Acceptor
from egress_router.http_proxy.server import Dependencies
from egress_router.policy.access_list import Own
from egress_router.settings.http_proxy import read_http_proxy
from tests.serving import listening
from tests.unit.http_proxy.asking import get
from tests.unit.http_proxy.names import know
from tests.unit.http_proxy.origin import OK, Client, Peer, answering, counted, origin, proxy, worker_of
from tests.waiting import until

if TYPE_CHECKING:
    from egress_router.grammar.acl import AccessList
    from egress_router.grammar.address import IPAddress
    from egress_router.settings.policy import Guarded
    from tests.serving import Running


def test_draining_lets_requests_end_and_closes_idle_connections() -> None:
    def patient(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        ready.append(peer)
        peer.read_to_the_end()

    ready: list[Peer] = []
    with (
        origin(patient) as server,
        origin(answering(OK)) as quick,
        proxy() as (running, port),
        Client(port) as idle,
        Client(port) as busy,
        Client(port) as fresh,
    ):
        idle.send(get(quick))
        idle.answer()
        busy.send(get(server))
        until(lambda: bool(ready))
        running.call(running.server.stop_accepting)
        assert idle.rest() == b""
        ready[0].send(OK)
        fresh.send(get(quick))
        for client in (busy, fresh):
            head, body = client.answer()
            assert "Connection: close" in head
            assert body == b"ok"
            assert client.rest() == b""
            client.end()
        until(lambda: running.call(running.server.open_connections) == 0)
        with pytest.raises(ConnectionRefusedError):
            Client(port)


def test_everything_closes_at_once_when_told() -> None:
    with origin(Peer.read_to_the_end) as server, proxy() as (running, port):
        clients = [Client(port) for _ in range(3)]
        clients[0].send(f"CONNECT {server.authority} HTTP/1.1\r\nHost: x\r\n\r\n")
        clients[0].head()
        clients[1].send(get(server))
        until(lambda: len(server.peers) == 2)
        running.call(running.server.close_all)
        assert running.call(running.server.open_connections) == 0
        for client in clients:
            with client, contextlib.suppress(ConnectionResetError):
                assert client.rest() == b""


class FarLoopback(Own):
    """Takes one address of the loopback network for a remote one."""

    def is_remote(self, address: IPAddress) -> bool:
        return str(address) == "127.0.0.5" or super().is_remote(address)


def acceptors(running: Running[Guarded[AccessList]]) -> int:
    running.call(running.context.registry.snapshot)  # the data plane frees in its next turn
    gc.collect()  # also what tests before this one left behind, or that would go in between
    return sum(isinstance(each, Acceptor) for each in gc.get_objects())


def test_a_socket_that_is_replaced_leaves_nothing_once_its_clients_have_gone() -> None:
    with origin(answering(OK, OK, OK)) as server, proxy() as (running, port), Client(port) as client:
        before = acceptors(running)
        client.send(get(server))
        client.answer()
        sockets = {each: listening() for each in running.ports}
        running.call(lambda: running.server.listen(sockets))
        client.send(get(server))
        assert client.answer()[1] == b"ok"
        assert acceptors(running) == before + 1
        client.sock.close()
        until(lambda: acceptors(running) == before)
        (listener,) = sockets.values()
        with Client(listener.getsockname()[1]) as other:
            other.send(get(server))
            assert other.answer()[1] == b"ok"


def test_report_only_lets_pass_what_is_remote_and_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = Dependencies(look=lambda _: FarLoopback(frozenset(), frozenset()))
    know(monkeypatch, a_example="127.0.0.1 127.0.0.5", b_example="127.0.0.1")
    with (
        origin(answering(OK), "127.0.0.5") as remote,
        proxy("!a.example\n", needs=needs, REPORT_ONLY="1") as (running, port),
    ):
        for name, status in (("a", "200"), ("b", "403")):
            with Client(port) as client:
                client.send(f"CONNECT {name}.example:{remote.port} HTTP/1.1\r\nHost: x\r\n\r\n")
                assert client.head()[9:12] == status
        with Client(port) as client:
            client.send("CONNECT unknown.example:443 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.head()[9:12] == "502"
        assert counted(running, "requests_total", verdict="reported", reason="rule") == 1
        assert counted(running, "requests_total", verdict="denied", reason="no_rule") == 1
        until(lambda: len(remote.peers) == 1)


def test_status_and_metrics() -> None:
    with origin(answering(OK)) as server, proxy("!192.0.2.0/24\n127.0.0.0/8\n") as (running, port):
        for target in (server.authority, "192.0.2.1:80", "192.0.2.1:80", "198.51.100.1:80"):
            with Client(port) as client:
                client.send(f"GET http://{target}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                client.rest()
        status = running.call(running.server.status)
        assert status["rules"] == [
            {"line": 1, "text": "!192.0.2.0/24", "hits": 2},
            {"line": 2, "text": "127.0.0.0/8", "hits": 1},
        ]
        denied = status["denied"]
        assert isinstance(denied, list)
        assert [
            (each["target"], each["rule"], each["reason"]) for each in denied if isinstance(each, dict)
        ] == [
            ("192.0.2.1:80", "line 1: !192.0.2.0/24", "rule"),
            ("192.0.2.1:80", "line 1: !192.0.2.0/24", "rule"),
            ("198.51.100.1:80", None, "no_rule"),
        ]
        assert counted(running, "requests_total", verdict="allowed") == 1
        assert counted(running, "requests_total", verdict="denied") == 3
        assert counted(running, "bytes_total", direction="received") == 2


def test_the_status_of_a_long_list_holds_the_rules_that_decided() -> None:
    rules = "".join(f"!10.{number >> 8}.{number & 255}.0/24\n" for number in range(2000))
    with proxy(rules) as (running, port):
        with Client(port) as client:
            client.send("CONNECT 10.1.2.3:443 HTTP/1.1\r\nHost: x\r\n\r\n")
            client.rest()
        hits = running.call(running.server.status)["rules"]
        assert hits == [{"line": 259, "text": "!10.1.2.0/24", "hits": 1}]


def test_the_mode_says_what_it_is() -> None:
    settings = read_http_proxy({"EGRESS_HTTP_PROXY_DESTINATION": "*", "EGRESS_HTTP_PROXY_PORT": "3128"})
    made = server_module.mode(settings)
    rules = made.parse("RULES", "!a.example\n*  # rest\n")
    assert (made.name, made.ports(rules), made.summary(rules)) == (
        "http-proxy",
        frozenset({3128}),
        ("!a.example", "*"),
    )


def test_what_has_ended_leaves_nothing_for_the_collector() -> None:
    with origin(answering(OK, OK)) as server, proxy() as (running, port):
        gc.collect()
        gc.disable()
        try:
            for ask in (
                get(server),
                f"CONNECT {server.authority} HTTP/1.1\r\nHost: x\r\n\r\n",
                "wrong\r\n\r\n",
            ):
                with Client(port) as client:
                    client.send(ask)
                    client.head()
            until(lambda: running.call(running.server.open_connections) == 0)
            client_watch = worker_of(running).client_watch
            until(lambda: not len(client_watch))
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = [type(each) for each in gc.garbage if type(each).__module__.startswith("egress_router.")]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert not left
