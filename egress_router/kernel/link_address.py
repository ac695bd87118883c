"""Sets the hardware address of an interface while it is up, and those of its neighbours."""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress

_SET_LINK, _IFLA_ADDRESS = 19, 1  # RTM_SETLINK; linux/if_link.h
_NEW_NEIGHBOUR, _NDA_DST, _NDA_LLADDR, _NUD_STALE = 28, 1, 2, 0x04  # linux/neighbour.h
_REQUEST, _ACK, _REPLACE, _CREATE, _ERROR = 0x001, 0x004, 0x100, 0x400, 2
_NETLINK_ROUTE = 0
_ANSWER_SECONDS = 5.0


class HardwareAddressInUseError(OSError):
    """Another interface on the same parent has it: two pods of one group on one node."""


def set_mac(index: int, mac: bytes) -> None:
    """Give an interface a hardware address.

    Raises:
        HardwareAddressInUseError: another macvlan interface of the same parent has it.
        OSError: the kernel refuses.
    """
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0) + _attribute(_IFLA_ADDRESS, mac)
    try:
        _ask(_SET_LINK, _REQUEST | _ACK, body)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise HardwareAddressInUseError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
        raise


def set_neighbour(index: int, address: IPAddress, mac: bytes) -> None:
    """Tell the kernel a neighbour's hardware address, which it uses at once and verifies later.

    Raises:
        OSError: the kernel refuses.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = struct.pack("=BxxxiHBB", family, index, _NUD_STALE, 0, 0)
    body += _attribute(_NDA_DST, address.packed) + _attribute(_NDA_LLADDR, mac)
    _ask(_NEW_NEIGHBOUR, _REQUEST | _ACK | _REPLACE | _CREATE, body)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _ask(kind: int, flags: int, body: bytes) -> None:
    header = struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as sock:
        sock.settimeout(_ANSWER_SECONDS)
        sock.sendto(header + body, (0, 0))
        answer = sock.recv(4096)
    kind, code = struct.unpack_from("=H", answer, 4)[0], struct.unpack_from("=i", answer, 16)[0]
    if kind == _ERROR and code:
        raise OSError(-code, os.strerror(-code))
