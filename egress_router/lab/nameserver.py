"""A name server for the laboratory and for tests: real UDP and TCP, a zone that changes, and faults.

As a process: `python -m egress_router.lab.nameserver 192.0.2.53:53 ZONE.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import dns.exception
import dns.message

from egress_router import log
from egress_router.grammar.address import parse_address, parse_port, split_port
from egress_router.kernel import netns
from egress_router.lab.loop_thread import serving
from egress_router.lab.zone import parse_zone, react
from egress_router.service.file_watch import changes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dns.rdatatype import RdataType

    from egress_router.lab.zone import Zone

_LOG = log.get("lab")


@dataclass(frozen=True, slots=True)
class Asked:
    """One query that arrived; `payload` is the size that EDNS offers, None without EDNS."""

    name: str
    kind: RdataType
    transport: str
    id: int
    port: int
    payload: int | None


class NameServer:
    """Answers from `zone`, which may be replaced while it runs; `asked` holds every query, oldest first.

    `negative_ttl`: seconds for which an absence may be cached; None leaves out the SOA record that says so.
    """

    def __init__(self, zone: Zone, *, negative_ttl: int | None = 1) -> None:
        self.zone = zone
        self.asked: list[Asked] = []
        self.port = 0
        self._negative_ttl = negative_ttl
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None

    async def start(self, address: str, port: int) -> None:
        """Listen on UDP and TCP; port 0 means any port that is free for both.

        Raises:
            OSError: the address or the port cannot be bound.
        """
        loop = asyncio.get_running_loop()
        udp, tcp = _bound(address, port)
        self.port = udp.getsockname()[1]
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=udp)
        self._tcp = await asyncio.start_server(self._connection, sock=tcp)

    def stop(self) -> None:
        """Stop listening."""
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()

    async def replies(self, wire: bytes, transport: str, port: int) -> tuple[bytes, ...]:
        """Record a query from `port` and return what to send for it; nothing if it is no valid query."""
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return ()
        if not query.question:
            return ()
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        payload = int(query.payload) if query.edns >= 0 else None
        self.asked.append(Asked(name, question.rdtype, transport, query.id, port, payload))
        reaction = react(self.zone, query, tcp=transport == "tcp", negative_ttl=self._negative_ttl)
        if reaction.delay:
            await asyncio.sleep(reaction.delay)
        return reaction.messages

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("peername")[1]
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                for message in await self.replies(await reader.readexactly(size), "tcp", port):
                    writer.write(len(message).to_bytes(2, "big") + message)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client closed the connection
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(data, addr))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, data: bytes, client: tuple[str, int]) -> None:
        messages = await self._server.replies(data, "udp", client[1])
        for message in messages:
            if self._transport is not None:
                self._transport.sendto(message, client)


def _bound(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    while True:
        udp = socket.socket(family, socket.SOCK_DGRAM)
        try:
            udp.bind((address, port))
            return udp, socket.create_server((address, udp.getsockname()[1]), family=family)
        except OSError as error:
            udp.close()
            # With port 0, the port that was free for UDP may not be for TCP: try the next.
            if port or error.errno != errno.EADDRINUSE:
                raise


@contextlib.contextmanager
def in_thread(
    zone: Zone,
    *,
    address: str = "127.0.0.1",
    port: int = 0,
    negative_ttl: int | None = 1,
    namespace: Path = netns.OWN,
) -> Iterator[NameServer]:
    """Run a name server in a thread of this process, in any network namespace, until the block ends."""
    server = NameServer(zone, negative_ttl=negative_ttl)
    with serving(lambda: server.start(address, port), server.stop, namespace):
        yield server


async def _serve(address: str, port: int, path: Path) -> None:
    server = NameServer(_read(path))
    await server.start(address, port)
    async for _ in changes([path]):
        try:
            server.zone = _read(path)
        except (OSError, ValueError) as error:
            _LOG.warning("zone refused, the old one stays", file=path, reason=error)


def _read(path: Path) -> Zone:
    return parse_zone(path.read_text())


def main() -> None:
    """Serve a zone file, which is read again when it changes, until a signal ends the process."""
    parser = argparse.ArgumentParser(prog="egress_router.lab.nameserver", description=main.__doc__)
    parser.add_argument("listen", metavar="ADDRESS:PORT", help="IPv6 addresses in brackets")
    parser.add_argument("zone", metavar="ZONE.json", type=Path)
    given = parser.parse_args()
    host, port = split_port(given.listen)
    address = parse_address(host.strip("[]"))
    asyncio.run(_serve(str(address), parse_port(port or "53"), given.zone))


if __name__ == "__main__":
    main()
