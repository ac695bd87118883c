"""Transparent ports with the real resolver and a real name server: names that move, and many of them."""

from __future__ import annotations

import contextlib
import resource
from typing import TYPE_CHECKING

import pytest

from egress_router.lab.nameserver import in_thread
from egress_router.lab.zone import entry
from egress_router.names.resolv_conf import parse_resolv_conf
from egress_router.names.resolver import Resolver, Sources
from egress_router.settings.names import NamesSettings
from tests.unit.http_proxy.names import InUse
from tests.unit.http_proxy.origin import Client, Origin, Peer, counted, origin, proxy
from tests.unit.tls.hellos import hello, sni
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.acl import AccessList
    from egress_router.lab.nameserver import NameServer
    from egress_router.metrics import Registry
    from egress_router.settings.policy import Guarded
    from tests.serving import Running

ACCESS_DENIED = bytes((21, 3, 1, 0, 2, 2, 49))
MANY = 1_000
# A connection takes a few KiB; what is remembered of a name well under one.
_MAX_KIB = 24 << 10


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    """A name server that the proxies of this test ask, and no other."""
    with in_thread({}) as server:
        conf = parse_resolv_conf("nameserver 127.0.0.1\n")
        sources = Sources(lambda _: conf, lambda _: {}, server.port)
        quick = NamesSettings(ttl_floor=0.05)

        def resolver(_: NamesSettings, registry: Registry) -> Resolver:
            return Resolver(quick, registry, sources=sources)

        monkeypatch.setattr(InUse, "names", resolver)
        yield server


def place(peer: Peer) -> None:
    """Say at which address the client was answered, and echo from then on."""
    first = peer.read()
    if not first:
        return
    peer.send(f"{peer.sock.getsockname()[0]}\n".encode() + first)
    while data := peer.read():
        peer.send(data)


@contextlib.contextmanager
def served(rules: str) -> Iterator[tuple[Origin, Running[Guarded[AccessList]], int]]:
    # Every address of the loopback network is this machine's, so one port is enough for all.
    with origin(place, host="0.0.0.0") as server:
        ports = f"1443:{server.port}"
        with proxy(rules, TRANSPARENT_PORTS=ports) as (running, _):
            yield server, running, running.ports[1443]


def answered_by(port: int, name: str) -> str:
    first = hello(sni(name.encode()))
    with Client(port) as client:
        client.send(first)
        address = client.take(len("127.0.0.1\n") + len(first)).partition(b"\n")[0]
        return address.decode()


def test_a_name_that_moves_between_two_connections_is_followed(name_server: NameServer) -> None:
    name_server.zone = {"a.example": entry("127.0.0.1", ttl=0)}
    with served("a.example\n127.0.0.0/8\n") as (_, _, port):
        assert answered_by(port, "a.example") == "127.0.0.1"
        with Client(port) as open_one:
            first = hello(sni(b"a.example"))
            open_one.send(first)
            assert open_one.take(10) == b"127.0.0.1\n"
            name_server.zone = {"a.example": entry("127.0.0.2", ttl=0)}
            until(lambda: answered_by(port, "a.example") == "127.0.0.2")
            # What is open stays where it is.
            assert open_one.take(len(first)) == first
            open_one.send(b"more")
            assert open_one.take(4) == b"more"


def test_a_name_that_moves_to_a_denied_address_is_denied_from_then_on(name_server: NameServer) -> None:
    name_server.zone = {"a.example": entry("127.0.0.1", ttl=0)}
    with served("!127.0.0.2\na.example\n127.0.0.0/8\n") as (server, running, port):
        assert answered_by(port, "a.example") == "127.0.0.1"
        name_server.zone = {"a.example": entry("127.0.0.2", ttl=0)}

        def denied() -> bool:
            with Client(port) as client:
                client.send(hello(sni(b"a.example")))
                return client.take(7) == ACCESS_DENIED

        until(denied)
        assert counted(running, "transparent_refused_total") >= 1
        assert {peer.sock.fileno() >= 0 and peer.sock.getsockname()[0] for peer in server.peers} <= {
            False,
            "127.0.0.1",
        }


def test_a_thousand_names_on_one_port_are_each_looked_up_and_decided(name_server: NameServer) -> None:
    """Each leads to an address of its own; every tenth is denied. Twice, so that what grows shows."""
    addresses = {
        f"name{number}.example": f"127.0.{1 + number // 250}.{1 + number % 250}" for number in range(MANY)
    }
    name_server.zone = {name: entry(address, ttl=300) for name, address in addresses.items()}
    rules = "".join(f"!name{number}.example\n" for number in range(0, MANY, 10)) + "*.example\n"
    denied = {f"name{number}.example" for number in range(0, MANY, 10)}
    with served(rules) as (server, running, port):
        grown = []
        for _ in range(2):
            for name, address in addresses.items():
                first = hello(sni(name.encode()))
                with Client(port) as client:
                    client.send(first)
                    if name in denied:
                        assert client.take(7) == ACCESS_DENIED
                    else:
                        assert client.take(len(address) + 1).decode() == f"{address}\n"
            until(lambda: running.call(running.server.open_connections) == 0)
            grown.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            server.peers.clear()
        assert counted(running, "transparent_refused_total", reason="rule") == 2 * len(denied)
        # Names that the list denies are not looked up, and no name is looked up twice within its TTL.
        asked = {each.name for each in name_server.asked}
        assert asked == set(addresses) - denied
        assert len(name_server.asked) == 2 * len(asked)  # A and AAAA
        assert grown[1] - grown[0] < _MAX_KIB
