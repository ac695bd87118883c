"""Whether the gateway on the egress interface answers, seen without privilege.

Reads the kernel's tables over a bare netlink socket: this runs all the time in a proxy's pod, whose memory
pyroute2 would double for four read-only questions. Sources: rtnetlink(7), netlink(7), linux/neighbour.h.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.address import IPAddress

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_REQUEST_DUMP = 0x1 | 0x300  # NLM_F_REQUEST | NLM_F_DUMP
_ERROR, _DONE = 2, 3
_GET_LINK, _GET_ADDRESS, _GET_ROUTE, _GET_NEIGHBOUR = 18, 22, 26, 30
_MAIN_TABLE = 254
_ANSWERED = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80  # REACHABLE STALE DELAY PROBE NOARP PERMANENT
_UP = 0x1
_DISCARD = 9
_BUFFER = 262_144


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface with its addresses, the gateways of its default routes, and those that do not answer."""

    name: str
    index: int
    is_up: bool
    addresses: tuple[IPAddress, ...]
    gateways: tuple[IPAddress, ...]
    silent: tuple[IPAddress, ...]


def look(name: str) -> Interface | None:
    """Return what the kernel knows of an interface of this network namespace; None where there is none.

    A gateway that the kernel never had to ask counts as silent: `provoke` makes it ask.
    """
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        return None
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0) as netlink:
        up = any(number == index and flags & _UP for number, flags in _links(netlink))
        addresses = tuple(address for number, address in _addresses(netlink) if number == index)
        gateways = tuple(gateway for number, gateway in _default_routes(netlink) if number == index)
        answered = {
            address
            for number, address, state in _neighbours(netlink)
            if number == index and state & _ANSWERED
        }
    return Interface(
        name, index, up, addresses, gateways, tuple(each for each in gateways if each not in answered)
    )


def provoke(interface: Interface, gateway: IPAddress) -> None:
    """Send a datagram to the gateway's discard port, so that the kernel has to find out who it is."""
    family = socket.AF_INET if gateway.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        # Refusals (no route, interface down) show in the tables; nothing is to be said here.
        with contextlib.suppress(OSError):
            where = (
                (str(gateway), _DISCARD)
                if gateway.version == 4
                else (str(gateway), _DISCARD, 0, interface.index)
            )
            sender.sendto(b"", where)


def _links(netlink: socket.socket) -> Iterator[tuple[int, int]]:
    for body in _dump(netlink, _GET_LINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0)):
        _, _, index, flags, _ = struct.unpack_from("=BxHiII", body)
        yield index, flags


def _addresses(netlink: socket.socket) -> Iterator[tuple[int, IPAddress]]:
    for body in _dump(netlink, _GET_ADDRESS, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
        index = struct.unpack_from("=I", body, 4)[0]
        attributes = _attributes(body, 8)
        packed = attributes.get(2) or attributes.get(1)  # IFA_LOCAL, IFA_ADDRESS
        if packed:
            yield index, ip_address(packed)


def _default_routes(netlink: socket.socket) -> Iterator[tuple[int, IPAddress]]:
    for family in (socket.AF_INET, socket.AF_INET6):
        for body in _dump(netlink, _GET_ROUTE, struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)):
            length, table = body[1], body[4]
            attributes = _attributes(body, 12)
            out, gateway = attributes.get(4), attributes.get(5)  # RTA_OIF, RTA_GATEWAY
            if length == 0 and table == _MAIN_TABLE and out and gateway:
                yield struct.unpack("=I", out)[0], ip_address(gateway)


def _neighbours(netlink: socket.socket) -> Iterator[tuple[int, IPAddress, int]]:
    for body in _dump(netlink, _GET_NEIGHBOUR, struct.pack("=BxxxiHBB", 0, 0, 0, 0, 0)):
        index, state = struct.unpack_from("=iH", body, 4)
        packed = _attributes(body, 12).get(1)  # NDA_DST
        if packed and len(packed) in {4, 16}:
            yield index, ip_address(packed), state


def _dump(netlink: socket.socket, kind: int, question: bytes) -> list[bytes]:
    """Return the bodies of a whole table; all of it, or the next question would read the rest."""
    bodies: list[bytes] = []
    netlink.send(_HEADER.pack(_HEADER.size + len(question), kind, _REQUEST_DUMP, 1, 0) + question)
    while True:
        data = netlink.recv(_BUFFER)
        while data:
            length, answer, _, _, _ = _HEADER.unpack_from(data)
            if answer == _DONE:
                return bodies
            if answer == _ERROR:
                raise OSError(-struct.unpack_from("=i", data, _HEADER.size)[0], "netlink dump")
            bodies.append(data[_HEADER.size : length])
            data = data[_aligned(length) :]


def _attributes(body: bytes, start: int) -> dict[int, bytes]:
    found = {}
    while start + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, start)
        found[kind] = body[start + _ATTRIBUTE.size : start + length]
        start += _aligned(length)
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3
