"""Who has an address on the wire? Requests and answers: ARP for IPv4, neighbour discovery for IPv6. Pure."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from egress_router.kernel.neighbour import probe

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress

_ARP, _IPV6 = b"\x08\x06", b"\x86\xdd"
_ICMPV6, _ADVERTISEMENT = 58, 136
_REQUEST_HEAD = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
_TARGET_LINK_LAYER = b"\x02\x01"


def solicitation(target: IPAddress, mac: bytes, source: IPAddress | None) -> bytes:
    """Return the frame that asks who has `target`; with `source`, as the owner of that would ask (RFC 826).

    For IPv6 it asks as duplicate address detection does: the answer goes to all nodes, whoever asks.
    """
    if isinstance(target, IPv4Address) and source is not None:
        body = _REQUEST_HEAD + mac + source.packed + bytes(6) + target.packed
        return b"\xff" * 6 + mac + _ARP + body
    return probe(target, mac)


def owner(frame: bytes, address: IPAddress) -> bytes | None:
    """Return the hardware address of the station that claims `address` in this frame; None without one."""
    if isinstance(address, IPv6Address):
        return _advertised(frame, address)
    if frame[12:14] != _ARP or len(frame) < 42 or frame[14:20] != b"\x00\x01\x08\x00\x06\x04":
        return None
    return frame[22:28] if frame[28:32] == address.packed else None


def _advertised(frame: bytes, address: IPv6Address) -> bytes | None:
    packet = frame[14:]
    if frame[12:14] != _IPV6 or len(packet) < 64 or packet[6] != _ICMPV6 or packet[7] != 255:
        return None
    if packet[40] != _ADVERTISEMENT or packet[48:64] != address.packed:
        return None
    option = packet[64:72]
    return option[2:8] if option[:2] == _TARGET_LINK_LAYER and len(option) == 8 else frame[6:12]
