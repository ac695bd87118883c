"""Announces the source addresses on the wire, and warns if the gateway does not answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.kernel import wire
from egress_router.kernel.netlink import Netlink
from egress_router.net import gateway

if TYPE_CHECKING:
    from egress_router.kernel.addresses import Holdings
    from egress_router.kernel.rtnl_types import Link


_REPEAT_SECONDS = 0.1
_ANSWER_SECONDS = 1.2  # the kernel asks a second time after 1 s
_POLL_SECONDS = 0.01
_log = log.get("setup")


def announce(holdings: Holdings) -> None:
    """Announce the addresses that the router holds; if some are new, make the gateways learn them."""
    wire.announce(holdings.link, holdings.held)
    if holdings.new:
        _ask_gateways(holdings.link)


def _ask_gateways(link: Link) -> gateway.Interface | None:
    """Make the kernel resolve the gateways: a gateway that is asked learns who asks."""
    outside = gateway.look(link.name)
    if outside is not None:
        for each in outside.gateways:
            gateway.provoke(outside, each)
    return outside


def announce_again(holdings: Holdings) -> None:
    """Announce the claimed addresses again: the first time may be lost while a switch still learns the port.

    To be called 2 s after `announce` (RFC 5227 1.1) by a process that keeps running. Also warns if the
    gateway has not answered by then.
    """
    wire.announce(holdings.link, holdings.new)
    _warn_of_silence(gateway.look(holdings.link.name))


def finish(holdings: Holdings) -> None:
    """Do what remains before a process ends that does not keep running.

    The kernel announces IPv4 addresses by itself, also after the end; those of IPv6 are announced again here.
    """
    if not holdings.new:
        return
    link = holdings.link
    with Netlink() as netlink:
        for address in holdings.new:
            if address.version == 4:
                netlink.announce(link.index, address)
    outside = _ask_gateways(link)
    limit = time.monotonic() + _ANSWER_SECONDS
    time.sleep(_REPEAT_SECONDS)
    wire.announce(link, [address for address in holdings.new if address.version == 6])
    while outside is not None and outside.silent and time.monotonic() < limit:
        time.sleep(_POLL_SECONDS)
        outside = gateway.look_again(outside)
    _warn_of_silence(outside)


def _warn_of_silence(outside: gateway.Interface | None) -> None:
    """Warn: the parent interface or the gateway may be wrong. The gateway may also just be late."""
    if outside is None:
        return
    for each in outside.silent:
        _log.warning(
            "the gateway does not answer: is it the right one, and is the parent interface in its network?",
            gateway=each,
            interface=outside.name,
        )
