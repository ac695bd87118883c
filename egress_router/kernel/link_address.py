"""The hardware address of an interface, changed while it is up."""

from __future__ import annotations

import errno
import os
import socket
import struct

_SET_LINK, _IFLA_ADDRESS = 19, 1  # RTM_SETLINK; linux/if_link.h
_REQUEST, _ACK, _ERROR = 0x001, 0x004, 2
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
    attribute = struct.pack("=HH", 4 + len(mac), _IFLA_ADDRESS) + mac + b"\0" * (-len(mac) % 4)
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0) + attribute
    header = struct.pack("=IHHII", 16 + len(body), _SET_LINK, _REQUEST | _ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as wire:
        wire.settimeout(_ANSWER_SECONDS)
        wire.sendto(header + body, (0, 0))
        answer = wire.recv(4096)
    kind, code = struct.unpack_from("=H", answer, 4)[0], struct.unpack_from("=i", answer, 16)[0]
    if kind != _ERROR or not code:
        return
    if -code == errno.EADDRINUSE:
        raise HardwareAddressInUseError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    raise OSError(-code, os.strerror(-code))
