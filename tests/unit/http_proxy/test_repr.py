"""What a debugger shows of a connection: state, client, target, bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.unit.http_proxy.origin import OK, Client, Peer, origin, proxy, worker_of
from tests.waiting import until

if TYPE_CHECKING:
    from egress_router.grammar.acl import AccessList
    from egress_router.settings.policy import Guarded
    from tests.serving import Running


def shown(running: Running[Guarded[AccessList]]) -> list[str]:
    return running.call(lambda: [repr(each) for each in worker_of(running).connections])


def half_an_answer(peer: Peer) -> None:
    peer.read_until(b"\r\n\r\n")
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    peer.read_to_the_end()


def test_a_connection_says_what_it_does() -> None:
    with origin(half_an_answer) as server, proxy() as (running, port), Client(port) as client:
        name = f"127.0.0.1 port {client.sock.getsockname()[1]}"
        client.send("GET http://a")
        until(lambda: shown(running) == [f"<ClientConnection {name} HEAD None held=12>"])
        client.send(f"\r\n\r\nGET http://{server.authority}/ HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: "LINGERING" in shown(running)[0])
    with origin(half_an_answer) as server, proxy() as (running, port), Client(port) as client:
        name = f"127.0.0.1 port {client.sock.getsockname()[1]}"
        client.send(f"GET http://{server.authority}/ HTTP/1.1\r\nHost: x\r\n\r\n")
        client.head()
        client.take(4)
        forwarder = f"<Forwarder GET {server.authority} at 127.0.0.1 status=200 sent=0 received=4>"
        until(lambda: shown(running) == [f"<ClientConnection {name} EXCHANGE {forwarder} held=0>"])


def test_a_tunnel_says_what_it_does() -> None:
    with origin(half_an_answer) as server, proxy(SNI="off") as (running, port), Client(port) as client:
        name = f"127.0.0.1 port {client.sock.getsockname()[1]}"
        client.send(f"CONNECT {server.authority} HTTP/1.1\r\nHost: x\r\n\r\n")
        client.head()
        client.send("GET / HTTP/1.1\r\n\r\n")
        client.head()
        went = f"TUNNEL CONNECT {server.authority} at 127.0.0.1 sent=18 received="
        until(lambda: f"<ProxyTunnel {name} {went}" in shown(running)[0])


def test_other_connections_say_what_they_do() -> None:
    with (
        origin(lambda peer: peer.read_to_the_end()) as server,
        proxy(TRANSPARENT_PORTS=f"1443:{server.port}") as (running, port),
    ):
        with Client(port) as client:
            name = f"127.0.0.1 port {client.sock.getsockname()[1]}"
            client.send(f"CONNECT {server.authority} HTTP/1.1\r\nHost: x\r\n\r\n\x16\x03\x01")
            client.head()
            hello = f"HELLO <ConnectRequest CONNECT {server.authority} connected=True held=3> held=0>"
            until(lambda: shown(running) == [f"<ClientConnection {name} {hello}"])
        until(lambda: not shown(running))
        with Client(running.ports[1443]) as client:
            name = f"127.0.0.1 port {client.sock.getsockname()[1]}"
            client.send(b"\x16\x03\x01")
            until(lambda: shown(running) == [f"<TlsConnection {name} HELLO held=3>"])


def test_an_idle_connection_to_an_origin_says_where_it_leads() -> None:
    def script(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        peer.send(OK)
        peer.read_to_the_end()

    with origin(script) as server, proxy() as (running, port), Client(port) as client:
        client.send(f"GET http://{server.authority}/ HTTP/1.1\r\nHost: x\r\n\r\n")
        client.answer()
        pool = worker_of(running).pool
        key = ("127.0.0.1", server.authority.encode(), None)
        until(lambda: bool(running.call(lambda: pool.idle_to(key))))
        (upstream,) = running.call(lambda: pool.idle_to(key))
        assert repr(upstream) == (
            f"<Upstream {server.authority} at 127.0.0.1 for 127.0.0.1 reused held=0 out=0>"
        )
