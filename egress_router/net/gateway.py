"""Whether the gateway on the egress interface answers, seen without privilege."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from egress_router.net.rtnetlink import addresses, default_routes, links, neighbours

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress

# linux/neighbour.h: REACHABLE STALE DELAY PROBE NOARP PERMANENT
_ANSWERED = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80
_UP = 0x1
_DISCARD = 9


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface with its addresses, the gateways of its default routes, and those that do not answer."""

    name: str
    index: int
    is_up: bool
    addresses: tuple[IPAddress, ...]
    gateways: tuple[IPAddress, ...]
    silent: tuple[IPAddress, ...]


def look(name: str) -> Interface | None:
    """Return what the kernel knows of an interface of this network namespace; None if there is none.

    A gateway whose hardware address the kernel never had to look up counts as silent: see `provoke`.
    """
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        return None
    up = any(number == index and flags & _UP for number, flags in links())
    own = tuple(address for number, address in addresses() if number == index)
    gateways = tuple(gateway for number, gateway in default_routes() if number == index)
    return Interface(name, index, up, own, gateways, _silent(index, gateways))


def look_again(interface: Interface) -> Interface:
    """Return the interface with the gateways that are silent now; nothing else is read again."""
    return replace(interface, silent=_silent(interface.index, interface.gateways))


def _silent(index: int, gateways: tuple[IPAddress, ...]) -> tuple[IPAddress, ...]:
    answered = {address for number, address, state in neighbours() if number == index and state & _ANSWERED}
    return tuple(each for each in gateways if each not in answered)


def provoke(interface: Interface, gateway: IPAddress) -> None:
    """Send a datagram to the gateway's discard port: so the kernel has to look up its hardware address."""
    family = socket.AF_INET if gateway.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        # Refusals (no route, interface down) are seen in the tables; they need no report here.
        with contextlib.suppress(OSError):
            where = (
                (str(gateway), _DISCARD)
                if gateway.version == 4
                else (str(gateway), _DISCARD, 0, interface.index)
            )
            sender.sendto(b"", where)
