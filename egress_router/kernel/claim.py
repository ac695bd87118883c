"""Owning an address on the wire: probe for another owner before the claim, announce after it.

The shape is RFC 5227's, the intervals are shorter: docs/decisions/address-claim.md says why.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.kernel.neighbour import announcements, mac_bytes, mac_text, probe, rival

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.kernel.messages import Link

PROBES = 3
PROBE_WAIT = 0.1  # seconds: at most so long before the first probe, so that pods started together differ
PROBE_INTERVAL = 0.3  # seconds after each probe in which an owner's answer counts
RETRY_WAIT = (0.5, 1.5)  # seconds between rounds; random, so that two that probe together part
ANNOUNCE_INTERVAL = 2.0  # seconds (RFC 5227 1.1)

_ETH_P_ALL = 0x0003
_SOL_PACKET, _ADD_MEMBERSHIP, _ALLMULTI = 263, 1, 2  # linux/if_packet.h
_log = log.get("kernel")


def await_free(link: Link, addresses: Sequence[IPAddress], timeout: float) -> None:
    """Return once nobody else on the wire has one of the addresses.

    Keeps probing for `timeout` seconds: on a fail-over the old pod may need a moment to go.

    Raises:
        RefusedError: another station still has an address then, or NET_RAW is missing.
    """
    deadline = time.monotonic() + timeout
    waits = False
    with _packet_socket(link) as wire:
        while (found := _probe(wire, link, addresses)) is not None:
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


def announce(link: Link, addresses: Sequence[IPAddress]) -> None:
    """Tell every station on the wire that the addresses are at this link.

    Raises:
        RefusedError: NET_RAW is missing.
    """
    mac = mac_bytes(link.mac)
    with _packet_socket(link) as wire:
        for address in addresses:
            for frame in announcements(address, mac):
                _send(wire, frame)


def _packet_socket(link: Link) -> socket.socket:
    try:
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    except PermissionError:
        raise RefusedError("cannot probe for other owners of EGRESS_SOURCE", "grant NET_RAW") from None
    wire.bind((link.name, 0))
    # An advertisement goes to groups that this interface has not joined.
    membership = struct.pack("iHH8s", link.index, _ALLMULTI, 0, b"")
    wire.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, membership)
    return wire


def _send(wire: socket.socket, frame: bytes) -> None:
    try:
        wire.send(frame)
    except OSError as error:
        raise RefusedError(
            f"cannot send on the egress interface ({error.strerror})", "check its link"
        ) from None


def _probe(wire: socket.socket, link: Link, addresses: Sequence[IPAddress]) -> tuple[IPAddress, str] | None:
    """Run one round of probes; return an address that is taken and the MAC that has it."""
    mac = mac_bytes(link.mac)
    time.sleep(random.uniform(0, PROBE_WAIT))  # noqa: S311 (spreads load, protects nothing)
    for _ in range(PROBES):
        for address in addresses:
            _send(wire, probe(address, mac))
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
