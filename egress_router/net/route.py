"""The kernel's route to an address; asking for it sends nothing."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress

_DISCARD = 9
# These errors say nothing about routes, only that this process has no socket to ask with.
_CANNOT_ASK = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def has_route(address: IPAddress) -> bool:
    """Return whether the kernel has a route to an IPv6 address; for IPv4 it is always True."""
    if address.version == 4:
        return True
    try:
        source_towards(address)
    except OSError as error:
        return error.errno in _CANNOT_ASK
    return True


def source_towards(address: IPAddress) -> str:
    """Return the source address for a destination: connecting a UDP socket looks it up, with the route."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((str(address), _DISCARD))
        source: str = probe.getsockname()[0]
        return source
