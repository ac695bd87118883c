"""Owning an address on the wire: probe for another owner before the claim, announce after it.

The shape is RFC 5227's, the intervals are shorter: docs/decisions/address-claim.md says why.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.kernel.neighbour import announcements, mac_bytes, mac_text, probe, rival

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.kernel.netlink import Netlink
    from egress_router.kernel.rtnl_types import Link

PROBES = 3
PROBE_WAIT = 0.1  # seconds: at most so long before the first probe, so that pods started together differ
PROBE_INTERVAL = 0.3  # seconds after each probe in which an owner's answer counts
RETRY_WAIT = (0.5, 1.5)  # seconds between rounds; random, so that two that probe together part
ANNOUNCE_INTERVAL = 2.0  # seconds (RFC 5227 1.1)
_CARRIER_INTERVAL = 0.1  # seconds between looks
_SETTLE = 1.0  # seconds: the kernel's link watch opens a bridge port at most so long after its carrier came

_ETH_P_ALL = 0x0003
_SOL_PACKET, _ADD_MEMBERSHIP, _ALLMULTI = 263, 1, 2  # linux/if_packet.h
_log = log.get("kernel")


def await_free(netlink: Netlink, link: Link, addresses: Sequence[IPAddress], timeout: float) -> None:
    """Return once nobody else on the wire has one of the addresses.

    Keeps probing for `timeout` seconds: on a fail-over the old pod may need a moment to go. Silence counts
    only where the link has had a carrier from the first probe to the last.

    Raises:
        RefusedError: another station still has an address then, there is no carrier, or NET_RAW is missing.
    """
    deadline = time.monotonic() + timeout
    waits = False
    while True:
        _await_carrier(netlink, link, deadline)
        found = _probe(link, addresses)
        if found is None:
            if _has_carrier(netlink, link):
                return
            continue
        address, owner = found
        if time.monotonic() >= deadline:
            raise RefusedError(
                f"{address} is in use by the station {owner} on {link.name} (waited {timeout:g} s)",
                "stop its owner, or give this router another EGRESS_SOURCE",
            )
        if not waits:
            _log.warning("address is in use; waiting for its owner to go", address=address, owner=owner)
            waits = True
        time.sleep(random.uniform(*RETRY_WAIT))  # noqa: S311 (spreads load, protects nothing)


def _await_carrier(netlink: Netlink, link: Link, deadline: float) -> None:
    if _has_carrier(netlink, link):
        return
    _log.warning("the interface has no carrier; waiting for it", interface=link.name)
    while not _has_carrier(netlink, link):
        if time.monotonic() >= deadline:
            raise RefusedError(
                f"{link.name} has no carrier, so nobody can be asked whether EGRESS_SOURCE is free",
                "bring its parent interface up, or check its cable and switch port",
            )
        time.sleep(_CARRIER_INTERVAL)
    time.sleep(_SETTLE)


def _has_carrier(netlink: Netlink, link: Link) -> bool:
    known = netlink.link(link.name)
    return known is not None and known.has_carrier


def announce(link: Link, addresses: Sequence[IPAddress]) -> None:
    """Tell every station on the wire that the addresses are at this link.

    Raises:
        RefusedError: NET_RAW is missing.
    """
    mac = mac_bytes(link.mac)
    with _packet_socket(link) as wire:
        for address in addresses:
            for frame in announcements(address, mac):
                wire.send(frame)


@contextmanager
def _packet_socket(link: Link) -> Iterator[socket.socket]:
    """Give a socket for whole frames of a link; what fails on it within the block is refused in one line."""
    try:
        # Protocol 0 receives nothing: frames of other interfaces would be queued until `bind`.
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except PermissionError:
        raise RefusedError("cannot probe for other owners of EGRESS_SOURCE", "grant NET_RAW") from None
    with wire:
        try:
            wire.bind((link.name, _ETH_P_ALL))
            # An advertisement goes to groups that this interface has not joined.
            membership = struct.pack("iHH8s", link.index, _ALLMULTI, 0, b"")
            wire.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, membership)
            yield wire
        except OSError as error:
            raise RefusedError(
                f"cannot probe and announce on {link.name} ({error.strerror})",
                "see that the interface stays up, and run setup again",
            ) from None


def _probe(link: Link, addresses: Sequence[IPAddress]) -> tuple[IPAddress, str] | None:
    """Run one round of probes; return an address that is taken and the MAC that has it.

    Each round has a socket of its own: what an owner said before it went is no answer to this round.
    """
    mac = mac_bytes(link.mac)
    time.sleep(random.uniform(0, PROBE_WAIT))  # noqa: S311 (spreads load, protects nothing)
    with _packet_socket(link) as wire:
        for _ in range(PROBES):
            for address in addresses:
                wire.send(probe(address, mac))
            found = _first_rival(wire, addresses, mac)
            if found is not None:
                return found
    return None


def _first_rival(
    wire: socket.socket, addresses: Sequence[IPAddress], mac: bytes
) -> tuple[IPAddress, str] | None:
    """Listen for the time between two probes."""
    until = time.monotonic() + PROBE_INTERVAL
    while (left := until - time.monotonic()) > 0:
        wire.settimeout(left)
        try:
            frame = wire.recv(256)
        except TimeoutError:
            break
        for address in addresses:
            owner = rival(frame, address, mac)
            if owner is not None:
                return address, mac_text(owner)
    return None
