"""How full connection tracking is, and how many source ports are in use towards each destination.

One source address has about 64,000 ports for each destination address and port; a router that runs out of
them refuses connections without a word. The table is read by ctnetlink with an own reader of three nested
attributes: pyroute2 decodes every field, at 60 µs an entry, which is seconds for a busy router.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING

from egress_router.errors import RefusedError
from egress_router.kernel import sysctl

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from egress_router.grammar.address import IPAddress

# Protocol number, address and port of a destination.
Destination = tuple[int, "IPAddress", int]

# linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h
_NETLINK_NETFILTER = 12
_GET = (1 << 8) | 1  # subsystem ctnetlink, IPCTNL_MSG_CT_GET
_REQUEST_DUMP = 0x1 | 0x300
_ERROR, _DONE = 2, 3
_TUPLE_REPLY, _TUPLE_IP, _TUPLE_PROTO = 2, 1, 2
_NUMBER, _SOURCE_PORT = 1, 2
_TYPE = 0x3FFF  # without the flags for nested and for byte order
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


def usage() -> tuple[int, int] | None:
    """Return how many entries connection tracking has and may have; None where the kernel does not say."""
    count = sysctl.read("net/netfilter/nf_conntrack_count")
    most = sysctl.read("net/netfilter/nf_conntrack_max")
    return None if count is None or most is None else (count, most)


def source_ports(sources: Collection[IPAddress]) -> Counter[Destination]:
    """Return how many source ports of these addresses are in use towards each destination.

    Raises:
        RefusedError: the kernel does not let this process look.
    """
    found: Counter[Destination] = Counter()
    packed = {address.packed for address in sources}
    try:
        for reply in _replies():
            ip, proto = reply.get(_TUPLE_IP, b""), reply.get(_TUPLE_PROTO, b"")
            addresses = list(_attributes(ip).values())
            if len(addresses) != 2 or addresses[1] not in packed:
                continue
            fields = _attributes(proto)
            port = fields.get(_SOURCE_PORT)
            if port is not None:
                found[fields[_NUMBER][0], ip_address(addresses[0]), int.from_bytes(port, "big")] += 1
    except OSError as error:
        raise RefusedError(f"cannot read connection tracking ({error.strerror})", "grant NET_ADMIN") from None
    return found


def _replies() -> Iterator[dict[int, bytes]]:
    """Yield the reply tuple of every entry: who answers, and to which address."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as wire:
        wire.settimeout(5)
        wire.bind((0, 0))
        request = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
        wire.send(_HEADER.pack(_HEADER.size + len(request), _GET, _REQUEST_DUMP, 1, 0) + request)
        while True:
            data = wire.recv(1 << 18)
            offset = 0
            while offset + _HEADER.size <= len(data):
                length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    code = -int.from_bytes(data[offset + 16 : offset + 20], "little", signed=True)
                    raise OSError(code, "the kernel refused")
                # Behind the header stand four bytes of nfgenmsg.
                entry = _attributes(data[offset + 20 : offset + length])
                yield _attributes(entry.get(_TUPLE_REPLY, b""))
                offset += (length + 3) & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    """Split netlink attributes; nested ones stay bytes."""
    found = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & _TYPE] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found
