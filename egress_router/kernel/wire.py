"""Frames on a link: sends probes for addresses, listens for their owners, announces."""

from __future__ import annotations

import random
import socket
import struct
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from egress_router.errors import RefusedError
from egress_router.kernel.neighbour import announcements, mac_bytes, mac_text, probe, rival

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.kernel.rtnl_types import Link

PROBES = 3
PROBE_WAIT = 0.1  # seconds, at most: random wait before the first probe, so that pods started together differ
PROBE_INTERVAL = 0.3  # seconds after each probe in which an owner's answer counts

_ETH_P_ALL = 0x0003
_SOL_PACKET, _ADD_MEMBERSHIP, _ALLMULTI = 263, 1, 2  # linux/if_packet.h


def announce(link: Link, addresses: Sequence[IPAddress]) -> None:
    """Tell every station on the wire that this link has the addresses.

    Raises:
        RefusedError: NET_RAW is missing, or the link went down.
    """
    mac = mac_bytes(link.mac)
    with _packet_socket(link) as sock:
        for address in addresses:
            for frame in announcements(address, mac):
                sock.send(frame)


def probe_round(link: Link, addresses: Sequence[IPAddress]) -> dict[IPAddress, str]:
    """Run one round of probes; return the addresses that are taken and the stations that have them.

    Each round opens a new socket: what an owner sent before it left does not answer this round.

    Raises:
        RefusedError: NET_RAW is missing, or the link went down.
    """
    mac = mac_bytes(link.mac)
    found: dict[IPAddress, str] = {}
    time.sleep(random.uniform(0, PROBE_WAIT))  # noqa: S311 (spreads load, protects nothing)
    with _packet_socket(link) as sock:
        for _ in range(PROBES):
            left = [address for address in addresses if address not in found]
            for address in left:
                sock.send(probe(address, mac))
            if left:
                found |= _rivals(sock, left, mac)
    return found


@contextmanager
def _packet_socket(link: Link) -> Iterator[socket.socket]:
    """Provide a socket for whole frames of a link; a failure in the block becomes a RefusedError."""
    try:
        # Protocol 0 receives nothing: frames of other interfaces would be queued until `bind`.
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except PermissionError:
        raise RefusedError("cannot probe for other owners of EGRESS_SOURCE", "grant NET_RAW") from None
    with sock:
        try:
            sock.bind((link.name, _ETH_P_ALL))
            # An advertisement goes to groups that this interface has not joined.
            membership = struct.pack("iHH8s", link.index, _ALLMULTI, 0, b"")
            sock.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, membership)
            yield sock
        except OSError as error:
            raise RefusedError(
                f"cannot probe and announce on {link.name} ({error.strerror})",
                "see that the interface stays up, and run setup again",
            ) from None


def _rivals(sock: socket.socket, addresses: Sequence[IPAddress], mac: bytes) -> dict[IPAddress, str]:
    """Listen for the time between two probes, or until every address has an owner."""
    found: dict[IPAddress, str] = {}
    until = time.monotonic() + PROBE_INTERVAL
    while len(found) < len(addresses) and (left := until - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            frame = sock.recv(256)
        except TimeoutError:
            break
        for address in addresses:
            owner = rival(frame, address, mac)
            if owner is not None:
                found[address] = f"the station {mac_text(owner)}"
    return found
