"""Whether this pod could reach an address at all."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress

# These say nothing of routes, only that this process has no socket to ask with.
_CANNOT_ASK = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def has_route(address: IPAddress) -> bool:
    """Return whether the kernel has a route to an IPv6 address; IPv4 is taken for granted.

    Connecting a UDP socket looks the route and a source address up and sends nothing.
    """
    if address.version == 4:
        return True
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
    except OSError as error:
        return error.errno in _CANNOT_ASK
    return True
