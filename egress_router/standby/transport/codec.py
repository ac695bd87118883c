"""Messages as bytes, on the wire and on the pod network. Pure.

On the wire every station may listen and send, as with ARP itself. On the pod network every pod may send, so a
datagram carries an authentication code. Both learned its key on the wire: docs/decisions/standby.md.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, NamedTuple

from egress_router.standby.protocol.commands import Message
from egress_router.standby.protocol.role import Role

if TYPE_CHECKING:
    from collections.abc import Iterable

    from egress_router.grammar.address import IPAddress

ETHERTYPE = 0x88B5  # IEEE 802 local experimental
GROUP_MAC = b"\x03egrs\x01"  # a locally administered multicast address
_MAGIC = b"egrs\x01"
_FIXED = struct.Struct("!5s8sBB10Q16s6sHB16s")
_ABLE, _READY = 0x01, 0x02  # flags; earlier versions ignore flags that they do not know
_CODE = 16  # bytes


class Contact(NamedTuple):
    """How a router is reached on the pod network, and the hardware address of its interface."""

    key: bytes
    mac: bytes
    address: IPAddress | None
    port: int


class Decoded(NamedTuple):
    """A message and its sender's contact."""

    message: Message
    contact: Contact


def group_of(addresses: Iterable[IPAddress]) -> bytes:
    """Return the identifier of the group that shares these addresses."""
    packed = b"".join(sorted(address.packed for address in addresses))
    return hashlib.sha256(b"egress-router standby " + packed).digest()[:8]


def encode(group: bytes, message: Message, contact: Contact) -> bytes:
    """Return the bytes of a message."""
    flags = (_ABLE if message.able else 0) | (_READY if message.ready else 0)
    address = b"" if contact.address is None else contact.address.packed
    return _FIXED.pack(
        _MAGIC,
        group,
        message.role,
        flags,
        message.sender,
        message.seq,
        message.epoch,
        message.term,
        message.ack_to,
        message.ack_seq,
        message.hand_over_to,
        message.hand_over_seq,
        message.depends_on,
        message.successor,
        contact.key,
        contact.mac,
        contact.port,
        len(address),
        address.ljust(16, b"\0"),
    )


def decode(group: bytes, data: bytes) -> Decoded | None:
    """Return the decoded message; None if it is not from this group."""
    if len(data) < _FIXED.size:
        return None
    magic, theirs, role, flags, *rest = _FIXED.unpack_from(data)
    numbers, (key, mac, port, length, address) = rest[:10], rest[10:]
    if magic != _MAGIC or theirs != group or role not in set(Role) or length not in {0, 4, 16}:
        return None
    sender, seq, epoch, term, ack_to, ack_seq, hand_over_to, hand_over_seq, depends_on, successor = numbers
    if not sender or not seq:
        return None
    message = Message(
        sender,
        seq,
        Role(role),
        bool(flags & _ABLE),
        epoch,
        term,
        ack_to,
        ack_seq,
        hand_over_to,
        hand_over_seq,
        depends_on,
        successor,
        bool(flags & _READY),
    )
    pod_address: IPv4Address | IPv6Address | None = ip_address(address[:length]) if length else None
    return Decoded(message, Contact(key, mac, pod_address, port))


def seal(data: bytes, mine: bytes, theirs: bytes) -> bytes:
    """Return bytes for the pod network: without the key, and with a code that only these two can compute."""
    start = _FIXED.size - 16 - 1 - 2 - 6 - 16
    bare = data[:start] + bytes(16) + data[start + 16 :]
    return bare + _code(bare, mine, theirs)


def opened(data: bytes, mine: bytes, theirs: bytes) -> bytes | None:
    """Return what was sealed with the same keys, without the code; None for anything else."""
    bare, code = data[:-_CODE], data[-_CODE:]
    return bare if hmac.compare_digest(code, _code(bare, theirs, mine)) else None


def _code(bare: bytes, sender: bytes, receiver: bytes) -> bytes:
    return hmac.digest(sender + receiver, bare, "sha256")[:_CODE]
