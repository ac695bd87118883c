"""The kernel's tables over a plain netlink socket, row by row, for questions that are asked often.

pyroute2 decodes every field (60 µs for an entry of connection tracking, seconds for a busy router) and would
double the memory of a proxy's pod. Sources: netlink(7), rtnetlink(7).
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_REQUEST_DUMP = 0x1 | 0x300  # NLM_F_REQUEST | NLM_F_DUMP
_REQUEST_ACK = 0x1 | 0x4  # NLM_F_REQUEST | NLM_F_ACK
_ERROR, _DONE = 2, 3
_TYPE = 0x3FFF  # without the flags for nested and for byte order
_BUFFER = 262_144
_TIMEOUT = 5.0  # seconds


def rows(protocol: int, kind: int, question: bytes) -> Iterator[bytes]:
    """Yield the bodies of a dump of one table.

    Raises:
        OSError: the kernel refuses.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as netlink:
        netlink.settimeout(_TIMEOUT)
        netlink.send(_HEADER.pack(_HEADER.size + len(question), kind, _REQUEST_DUMP, 1, 0) + question)
        while True:
            data = netlink.recv(_BUFFER)
            offset = 0
            while offset + _HEADER.size <= len(data):
                length, answer, _, _, _ = _HEADER.unpack_from(data, offset)
                if answer == _DONE:
                    return
                if answer == _ERROR:
                    code = -struct.unpack_from("=i", data, offset + _HEADER.size)[0]
                    raise OSError(code, "the kernel refused a netlink dump")
                yield data[offset + _HEADER.size : offset + length]
                offset += _aligned(length)


def request(protocol: int, kind: int, question: bytes) -> None:
    """Send the kernel one request, and wait until it is acknowledged.

    Raises:
        OSError: the kernel refuses.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as netlink:
        netlink.settimeout(_TIMEOUT)
        netlink.send(_HEADER.pack(_HEADER.size + len(question), kind, _REQUEST_ACK, 1, 0) + question)
        data = netlink.recv(_BUFFER)
        # NLMSG_ERROR with the number 0 is the acknowledgement.
        code = -struct.unpack_from("=i", data, _HEADER.size)[0]
        if code:
            raise OSError(code, os.strerror(code))


def attributes(body: bytes, start: int = 0) -> dict[int, bytes]:
    """Return the attributes from `start` on, by type; nested ones stay bytes."""
    found = {}
    while start + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, start)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE] = body[start + _ATTRIBUTE.size : start + length]
        start += _aligned(length)
    return found


def nested(body: bytes) -> Iterator[bytes]:
    """Yield the bodies of a list of attributes, which are all of one type."""
    start = 0
    while start + _ATTRIBUTE.size <= len(body):
        length, _ = _ATTRIBUTE.unpack_from(body, start)
        if length < _ATTRIBUTE.size:
            break
        yield body[start + _ATTRIBUTE.size : start + length]
        start += _aligned(length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
