"""Connections to origins, and the pool of idle ones for the next request of the same client."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from egress_router.relay.buffered_socket import BufferedSocket, nothing

if TYPE_CHECKING:
    import socket

    from egress_router.grammar.address import IPAddress
    from egress_router.grammar.leaving import Leaving
    from egress_router.relay.deadlines import Deadline, Deadlines
    from egress_router.relay.poller import Poller

_MAX_FOR_ONE = 256  # idle connections of one client address to one destination
_MAX = 1_000  # of all clients together

# Client address, authority of the target (bytes: their hash is cached, that of an address is not), and the
# source address that the rule asks for, usually none. Connections are shared only inside one client address:
# surplus bytes that one client makes an origin send must never become the answer to another.
Key = tuple[str, bytes, "Leaving"]


class Upstream(BufferedSocket):
    """A connection to an origin.

    `reused`: it has carried an answer. `persistent`: that answer keeps it open. `bound`: it is authenticated
    for the user of one client connection (NTLM and Negotiate authenticate connections, RFC 4559 6).
    """

    __slots__ = ("_look", "address", "bound", "idle_before", "key", "persistent", "pool", "reused")

    def __init__(
        self, pool: UpstreamPool, key: Key, sock: socket.socket, poller: Poller, address: IPAddress, most: int
    ) -> None:
        super().__init__(sock, poller, nothing, most)
        self.pool = pool
        self.key = key
        self.address = address
        self.reused = False
        self.persistent = False
        self.bound = False
        self.idle_before = False  # at the last sweep of the pool
        self._look: select.poll | None = None

    def __repr__(self) -> str:
        client, authority, _ = self.key
        flags = " bound" * self.bound + " reused" * self.reused + " lost" * self.lost
        waits = f"held={len(self.held)} out={len(self.out)}"
        return f"<Upstream {authority.decode()} at {self.address} for {client}{flags} {waits}>"

    def is_quiet(self) -> bool:
        """Ask the kernel whether nothing has come: events show only what came before they were fetched."""
        # A read that finds nothing raises an exception, which costs 2 % more of a GET (Python 3.11,
        # docs/decisions/performance.md).
        if self._look is None:
            self._look = select.poll()
            self._look.register(self.sock.fileno(), select.POLLIN)
        return not self._look.poll(0)

    def idle_ready(self) -> None:
        """Drop a connection on which something came while it was idle: its end, or unrequested bytes."""
        if self.receive() is not None:
            self.pool.drop(self)


class UpstreamPool:
    """The idle connections of one worker, each kept for at least `seconds` and at most twice as long."""

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        self._idle: dict[Key, list[Upstream]] = {}
        self._count = 0
        self._sweeper: Deadline | None = None

    def take(self, key: Key, allowed: tuple[IPAddress, ...]) -> Upstream | None:
        """Return the most recently used connection whose address is allowed now."""
        idle = self._idle.get(key)
        while idle:
            upstream = idle.pop()
            self._count -= 1
            if not idle:
                del self._idle[key]
            if upstream.address in allowed and upstream.is_quiet():
                return upstream
            upstream.close()
        return None

    def idle_to(self, key: Key) -> tuple[Upstream, ...]:
        """Return the idle connections for a key, the most recently used one last."""
        return tuple(self._idle.get(key, ()))

    def put(self, upstream: Upstream) -> None:
        """Keep a connection whose answer is complete."""
        idle = self._idle.get(upstream.key)
        if self._count >= _MAX or (idle is not None and len(idle) >= _MAX_FOR_ONE):
            upstream.close()
            return
        if idle is None:
            idle = self._idle[upstream.key] = []
        upstream.on_ready = upstream.idle_ready
        upstream.idle_before = False
        idle.append(upstream)
        self._count += 1
        if self._sweeper is None:
            self._sweeper = self._deadlines.add(self._seconds, self._sweep)

    def drop(self, upstream: Upstream) -> None:
        """Close an idle connection."""
        idle = self._idle[upstream.key]
        idle.remove(upstream)
        self._count -= 1
        if not idle:
            del self._idle[upstream.key]
        upstream.close()

    def close(self) -> None:
        """Close all of them."""
        for upstream in [each for idle in self._idle.values() for each in idle]:
            self.drop(upstream)

    def _sweep(self) -> None:
        """Close what was idle at the last sweep already; this saves a timer for each request."""
        for upstream in [each for idle in self._idle.values() for each in idle]:
            if upstream.idle_before:
                self.drop(upstream)
            upstream.idle_before = True
        self._sweeper = self._deadlines.add(self._seconds, self._sweep) if self._idle else None


class ClientUpstreams:
    """The idle connections that one client connection may use: the one bound to it, and the pool."""

    __slots__ = ("_bound", "_pool")

    def __init__(self, pool: UpstreamPool) -> None:
        self._pool = pool
        self._bound: Upstream | None = None

    def take(self, key: Key, allowed: tuple[IPAddress, ...], *, shared: bool) -> Upstream | None:
        """Return a connection for this key, to an address that is allowed now.

        A bound connection that does not fit is closed. `shared`: one from the pool may be used.
        """
        bound, self._bound = self._bound, None
        if bound is not None:
            if bound.key == key and bound.address in allowed and bound.is_quiet():
                return bound
            bound.close()
        return self._pool.take(key, allowed) if shared else None

    def put(self, upstream: Upstream) -> None:
        """Keep a connection whose answer is complete: for this client connection if bound, or in the pool."""
        if upstream.bound:
            upstream.on_ready = self._ready
            self._bound = upstream
        else:
            self._pool.put(upstream)

    def close(self) -> None:
        """Close the bound one, if there is one."""
        if self._bound is not None:
            self._bound.close()
            self._bound = None

    def _ready(self) -> None:
        if self._bound is not None and self._bound.receive() is not None:
            self.close()
