"""Frames that ask for and announce addresses: ARP for IPv4, neighbour discovery for IPv6. Pure bytes.

Sources: RFC 826, RFC 5227 (ARP probe and announcement), RFC 4861 and RFC 4862 5.4 (neighbour
solicitation, advertisement, duplicate address detection).
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress

_ETHERTYPE_ARP, _ETHERTYPE_IPV6 = 0x0806, 0x86DD
_BROADCAST = b"\xff" * 6
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_REQUEST, _REPLY = 1, 2
_ICMPV6, _SOLICITATION, _ADVERTISEMENT = 58, 135, 136
_TARGET_LINK_LAYER = b"\x02\x01"  # option 2, one unit of 8 octets (RFC 4861 4.6.1)
_OVERRIDE = 0x20000000
_ALL_NODES = IPv6Address("ff02::1")
_UNSPECIFIED = IPv6Address("::")


def mac_bytes(text: str) -> bytes:
    """Return the six bytes of `02:42:…`."""
    return bytes.fromhex(text.replace(":", ""))


def mac_text(mac: bytes) -> str:
    """Return six bytes as `02:42:…`."""
    return mac.hex(":")


def probe(address: IPAddress, mac: bytes) -> bytes:
    """Return the frame that asks who has `address` without claiming it."""
    if isinstance(address, IPv4Address):
        # RFC 5227 1.1: the sender's address is all zero, so that no cache on the wire learns it.
        return _arp(_REQUEST, mac, IPv4Address(0), address, b"\x00" * 6)
    group = IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int(address) & 0xFFFFFF)
    return _icmpv6(mac, _UNSPECIFIED, group, _SOLICITATION, 0, address.packed)


def announcements(address: IPAddress, mac: bytes) -> tuple[bytes, ...]:
    """Return the frames from which every cache on the wire learns that `address` is at `mac`.

    For IPv4 a request and a reply: some switches and hosts learn from only one of the two.
    """
    if isinstance(address, IPv4Address):
        request = _arp(_REQUEST, mac, address, address, b"\x00" * 6)
        return request, _arp(_REPLY, mac, address, address, _BROADCAST)
    body = address.packed + _TARGET_LINK_LAYER + mac
    return (_icmpv6(mac, address, _ALL_NODES, _ADVERTISEMENT, _OVERRIDE, body),)


def rival(frame: bytes, address: IPAddress, mac: bytes) -> bytes | None:
    """Return the MAC of another station that owns `address` or probes for it; None if there is none."""
    if len(frame) < 14 or frame[6:12] == mac:
        return None
    kind = int.from_bytes(frame[12:14], "big")
    if isinstance(address, IPv4Address):
        return _arp_rival(frame[14:], address, mac) if kind == _ETHERTYPE_ARP else None
    return _ndp_rival(frame, address, mac) if kind == _ETHERTYPE_IPV6 else None


def _arp(operation: int, mac: bytes, sender: IPv4Address, target: IPv4Address, target_mac: bytes) -> bytes:
    body = _ARP.pack(1, 0x0800, 6, 4, operation, mac, sender.packed, target_mac, target.packed)
    return _BROADCAST + mac + _ETHERTYPE_ARP.to_bytes(2, "big") + body


def _arp_rival(body: bytes, address: IPv4Address, mac: bytes) -> bytes | None:
    if len(body) < _ARP.size:
        return None
    hardware, protocol, _, _, operation, sender_mac, sender, _, target = _ARP.unpack_from(body)
    if (hardware, protocol) != (1, 0x0800) or sender_mac == mac:
        return None
    # RFC 5227 2.1.1: any ARP packet with the address as its sender, or another station's probe for it.
    probing = operation == _REQUEST and sender == b"\x00" * 4 and target == address.packed
    return bytes(sender_mac) if sender == address.packed or probing else None


def _icmpv6(
    mac: bytes, source: IPv6Address, destination: IPv6Address, kind: int, flags: int, body: bytes
) -> bytes:
    message = struct.pack("!BBHI", kind, 0, 0, flags) + body
    pseudo = source.packed + destination.packed + struct.pack("!II", len(message), _ICMPV6)
    message = message[:2] + struct.pack("!H", _checksum(pseudo + message)) + message[4:]
    # Hop limit 255 shows that no router forwarded it (RFC 4861 7.1.1).
    header = struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255) + source.packed + destination.packed
    group_mac = b"\x33\x33" + destination.packed[-4:]  # RFC 2464 7
    return group_mac + mac + _ETHERTYPE_IPV6.to_bytes(2, "big") + header + message


def _checksum(data: bytes) -> int:
    words: tuple[int, ...] = struct.unpack(f"!{len(data) // 2}H", data)
    total = sum(words)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _ndp_rival(frame: bytes, address: IPv6Address, mac: bytes) -> bytes | None:
    packet = frame[14:]
    # Fixed header (40), hop limit 255, then type, code, checksum, flags and target (24).
    if len(packet) < 64 or packet[6] != _ICMPV6 or packet[7] != 255 or packet[48:64] != address.packed:
        return None
    if packet[40] == _ADVERTISEMENT:
        option = packet[64:72]
        owner = option[2:8] if option[:2] == _TARGET_LINK_LAYER and len(option) == 8 else frame[6:12]
        return None if owner == mac else owner
    # RFC 4862 5.4.3: a solicitation from the unspecified address is another station's probe.
    probing = packet[40] == _SOLICITATION and packet[8:24] == _UNSPECIFIED.packed
    return frame[6:12] if probing else None
