"""One question to one name server: over UDP, and over TCP if the answer does not fit.

Every UDP query has a socket of its own: the kernel picks its source port at random, and because the socket
is connected it drops what other addresses send and reports a closed port at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from egress_router.names import metrics
from egress_router.names.message import Records, Refusal, Reply, Truncated, make_query, read_reply

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress
    from egress_router.names.message import Query
    from egress_router.names.metrics import DnsMetrics
    from egress_router.names.wire import Kind

_MAX_DATAGRAM = 4096  # more than EDNS offers; a longer one is cut, and so malformed
# This many wrong datagrams mean that somebody is guessing ids. TCP is safe from those who cannot see it.
_MAX_IGNORED = 32
_NOT_BLOCKING = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


@dataclass(frozen=True, slots=True)
class Server:
    """A name server: its address (with a zone if it is link-local) and port."""

    address: IPAddress
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        """The address family of sockets to it."""
        return socket.AF_INET if self.address.version == 4 else socket.AF_INET6

    def sockaddr(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """Return the address for `connect`.

        Raises:
            OSError: the zone is not an interface of this machine.
        """
        zone = self.address.scope_id if isinstance(self.address, IPv6Address) else None
        if zone is None:
            return (str(self.address), self.port)
        # `connect` sets the zone from the fourth field and ignores what comes after the `%`.
        index = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
        return (str(IPv6Address(int(self.address))), self.port, 0, index)


class ServerError(Exception):
    """One server gave no definite answer; `silent`: it gave none at all within the timeout."""

    def __init__(self, reason: str, *, silent: bool = False) -> None:
        super().__init__(reason)
        self.silent = silent


class Transport:
    """Asks single servers and counts the results."""

    def __init__(self, counters: DnsMetrics) -> None:
        self._counters = counters

    async def ask(self, server: Server, name: str, kind: Kind, seconds: float) -> Records:
        """Return what `server` answers for `name` within `seconds` in total.

        Raises:
            ServerError: it is silent, unreachable, refuses, or answers with something unusable.
        """
        transport = "udp"
        try:
            async with asyncio.timeout(seconds):
                query = make_query(name, kind, edns=True)
                reply = await self._over_udp(server, query)
                if isinstance(reply, Refusal) and reply.lacks_edns:
                    query = make_query(name, kind, edns=False)
                    reply = await self._over_udp(server, query)
                if isinstance(reply, Truncated):
                    self._count(transport, metrics.TRUNCATED)
                    transport = "tcp"
                    reply = await _over_tcp(server, query)
        except TimeoutError:
            self._count(transport, metrics.SILENT)
            raise ServerError(f"no answer within {seconds:g} s", silent=True) from None
        except (OSError, EOFError) as error:
            self._count(transport, metrics.UNREACHABLE)
            reason = error.strerror if isinstance(error, OSError) else None
            raise ServerError(reason or str(error)) from error
        if isinstance(reply, Records):
            self._count(transport, metrics.ANSWERED)
            return reply
        self._count(transport, metrics.REFUSED)
        raise ServerError(reply.reason if isinstance(reply, Refusal) else "truncated over TCP")

    def _count(self, transport: str, result: str) -> None:
        self._counters.queries[transport, result].value += 1

    async def _over_udp(self, server: Server, query: Query) -> Reply:
        loop = asyncio.get_running_loop()
        with socket.socket(server.family, socket.SOCK_DGRAM | _NOT_BLOCKING) as sock:
            sock.connect(server.sockaddr())
            sock.send(query.wire)
            for _ in range(_MAX_IGNORED):
                reply = read_reply(query, await loop.sock_recv(sock, _MAX_DATAGRAM))
                if reply is not None:
                    return reply
                self._counters.ignored.value += 1
        return Truncated()


async def _over_tcp(server: Server, query: Query) -> Reply:
    """Ask over a new connection; RFC 1035 4.2.2: a length of two octets precedes each message."""
    loop = asyncio.get_running_loop()
    with socket.socket(server.family, socket.SOCK_STREAM | _NOT_BLOCKING) as sock:
        # Not `loop.sock_connect`: that of uvloop loses the zone. Sending waits until the socket is connected.
        with contextlib.suppress(BlockingIOError):
            sock.connect(server.sockaddr())
        await loop.sock_sendall(sock, len(query.wire).to_bytes(2, "big") + query.wire)
        size = int.from_bytes(await _exactly(sock, 2), "big")
        reply = read_reply(query, await _exactly(sock, size))
    return Refusal("an answer to another question over TCP") if reply is None else reply


async def _exactly(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    received = bytearray()
    while len(received) < size:
        piece = await loop.sock_recv(sock, size - len(received))
        if not piece:
            raise EOFError("the connection ended inside the answer")
        received += piece
    return bytes(received)
