"""Connections to origins, and those of one client that wait for its next request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.http_proxy.wire import Wire, nothing

if TYPE_CHECKING:
    import socket

    from egress_router.grammar.address import IPAddress
    from egress_router.http_proxy.target import Target
    from egress_router.relay.poller import Poller

_MOST_KEPT = 4


class Upstream(Wire):
    """A connection to an origin; `reused` once it has carried an answer, `persistent` if that said so."""

    __slots__ = ("address", "key", "persistent", "reused")

    def __init__(
        self, sock: socket.socket, poller: Poller, address: IPAddress, target: Target, most: int
    ) -> None:
        super().__init__(sock, poller, nothing, readable=False, most=most)
        self.address = address
        self.key = (target.host, target.port)
        self.reused = False
        self.persistent = False


class Kept:
    """The idle connections of one client, by destination; never shared between clients."""

    __slots__ = ("_by_key",)

    def __init__(self) -> None:
        self._by_key: dict[tuple[object, int], Upstream] = {}

    def take(self, target: Target, allowed: tuple[IPAddress, ...]) -> Upstream | None:
        """Return a connection to this target, if its address is one of those that are allowed now."""
        upstream = self._by_key.pop((target.host, target.port), None)
        if upstream is None or upstream.address in allowed:
            return upstream
        upstream.close()
        return None

    def put(self, upstream: Upstream) -> None:
        """Keep a connection whose answer is complete; beyond a few, the oldest goes."""
        if len(self._by_key) >= _MOST_KEPT:
            self._by_key.pop(next(iter(self._by_key))).close()
        upstream.on_ready = self._ready
        self._by_key[upstream.key] = upstream

    def close(self) -> None:
        """Close all of them."""
        for upstream in self._by_key.values():
            upstream.close()
        self._by_key.clear()

    def _ready(self) -> None:
        """One of them has something to read: its end, or bytes that nobody asked for."""
        for key, upstream in list(self._by_key.items()):
            if upstream.readable and upstream.receive() is not None:
                del self._by_key[key]
                upstream.close()
