"""What the tests of known CONNECTs share: origins, tunnels and who served them."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from egress_router.http_proxy.accounting import Accounting
from egress_router.http_proxy.server import REAL
from tests.unit.http_proxy.origin import LOOPBACK, Client, Peer, counted, proxy
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.acl import AccessList
    from egress_router.settings.policy import Guarded
    from tests.serving import Running

    Proxy = Running[Guarded[AccessList]]


def speaks_first(peer: Peer) -> None:
    peer.send(b"220 hi")
    peer.read_to_the_end()


def head(authority: str, more: str = "") -> bytes:
    return f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{more}\r\n".encode()


@contextlib.contextmanager
def quiet(rules: str = LOOPBACK, *, repeats: bool = True, **others: object) -> Iterator[tuple[Proxy, int]]:
    """A proxy without an access log."""
    needs = replace(REAL, repeats=repeats, accounting=Accounting)  # whatever the log level is
    with proxy(rules, access_log="0", needs=needs, **others) as (running, port):  # type: ignore[arg-type]
        yield running, port


class Tunnel(Client):
    """A client with a tunnel."""

    def __init__(self, port: int, first: bytes) -> None:
        super().__init__(port)
        self.send(first)
        self.answered = self.head()
        assert self.answered == "HTTP/1.1 200 Connection established"


def repeated(running: Proxy) -> float:
    return counted(running, "connects_repeated_total")


def decided(running: Proxy) -> float:
    """How many requests Python has decided on."""
    return counted(running, "requests_total") - repeated(running)


def learnt(running: Proxy, port: int, first: bytes) -> None:
    """Send CONNECTs until one is repeated: none is known for long."""

    def repeats() -> bool:
        before = repeated(running)
        ping(port, first)
        return repeated(running) > before

    until(repeats)


def known_tunnel(running: Proxy, port: int, first: bytes) -> Tunnel:
    """Return a tunnel that Python knows nothing of."""
    for _ in range(100):
        before = repeated(running)
        tunnel = Tunnel(port, first)
        tunnel.send("ping")
        tunnel.take(4)
        if repeated(running) > before:
            return tunnel
        tunnel.sock.close()
        until(lambda: counted(running, "tunnels_open") == 0)
    raise AssertionError("none is repeated")


def ping(port: int, first: bytes, sent: bytes = b"ping") -> None:
    with Tunnel(port, first) as tunnel:
        tunnel.send(sent)
        assert tunnel.take(len(sent)) == sent
        tunnel.end()
        assert tunnel.rest() == b""
