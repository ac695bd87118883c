"""The source addresses on the egress interface: probed for, added, announced; old ones of ours taken off."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.kernel import acd, sysctl
from egress_router.net import rtnetlink

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.kernel.netlink import Netlink
    from egress_router.kernel.rtnl_types import Address, Link
    from egress_router.settings.setup import Source

_log = log.get("kernel")


def refuse_elsewhere(interface: str, sources: Sequence[Source]) -> None:
    """Refuse a source address that another interface of the pod has; nothing is changed for the question.

    On two interfaces the address would work on neither: the kernel answers for it on the first one.

    Raises:
        RefusedError: so it is.
    """
    wanted = {source.address for source in sources}
    for index, address in rtnetlink.addresses():
        if address in wanted and (name := socket.if_indextoname(index)) != interface:
            raise RefusedError(
                f"{address} is on the pod's interface {name}, and EGRESS_INTERFACE is {interface}",
                f"set EGRESS_INTERFACE={name}, or take the address off {name} (`ip link del {name}` where an"
                " earlier run of setup made it)",
            )


def ensure_addresses(
    netlink: Netlink, link: Link, sources: Sequence[Source], timeout: float
) -> tuple[IPAddress, ...]:
    """Make the interface hold the source addresses; return those that were claimed now.

    What an earlier run claimed is not probed for: a restarted init container finds its own. An address that
    a CNI plug-in gave the interface stays as it is, whatever its length: routes are set explicitly.

    Raises:
        RefusedError: somebody else on the wire has one of them, or the kernel refuses.
    """
    held = netlink.addresses(link.index)
    wanted = {(source.address, source.prefix) for source in sources}
    new = [source for source in sources if not _is_claimed(netlink, link, source, held)]
    if any(source.address.version == 6 for source in sources):
        _enable_ipv6(link)
    if new:
        acd.await_free(netlink, link, [source.address for source in new], timeout)
    for known in held:
        if known.is_ours and (known.address, known.prefix) not in wanted:
            _log.info("address of an earlier run removed", address=known.address, interface=link.name)
            netlink.delete_address(link.index, known)
    present = {(known.address, known.prefix) for known in held}
    given = {known.address for known in held if not known.is_ours}
    for source in sources:
        missing = (source.address, source.prefix) not in present and source.address not in given
        if missing:
            netlink.add_address(link.index, source.address, source.prefix)
        if missing or source in new:
            _log.info("address claimed", address=source.address, interface=link.name)
    return tuple(source.address for source in new)


def _is_claimed(netlink: Netlink, link: Link, source: Source, held: Sequence[Address]) -> bool:
    """Say whether an earlier run claimed the address.

    Where `setup` added it, its flag says so; where a CNI plug-in did, the default route does, which comes
    after the claim.
    """
    known = [each for each in held if each.address == source.address]
    return any(each.is_ours for each in known) or (
        bool(known)
        and any(
            route.is_ours
            and (route.destination, route.index, route.source) == (None, link.index, source.address)
            for route in netlink.routes(source.address.version)
        )
    )


def keep_to_itself(link: Link) -> None:
    """Have the interface answer and ask only with its own addresses, and learn no routes from the wire.

    Without this the outside network could learn the pod's other addresses (ARP flux), or the parent's
    hardware address for EGRESS_SOURCE. IPv6 needs none of it: the kernel answers a solicitation only for
    addresses of the interface that it came in by. Refused writes do not matter much: what the outside sends
    to those addresses is dropped.
    """
    for name, value in (
        (f"net/ipv4/conf/{link.name}/arp_ignore", 1),
        (f"net/ipv4/conf/{link.name}/arp_announce", 2),
        (f"net/ipv6/conf/{link.name}/accept_ra", 0),
        (f"net/ipv6/conf/{link.name}/autoconf", 0),
    ):
        if sysctl.read(name) is not None and not sysctl.ensure(name, value):
            _log.debug("sysctl is read-only", name=name, wanted=value)


def _enable_ipv6(link: Link) -> None:
    if not sysctl.ensure(f"net/ipv6/conf/{link.name}/disable_ipv6", 0):
        raise RefusedError(
            f"IPv6 is off on {link.name} and /proc/sys is read-only",
            "enable IPv6 in the pod, or leave the IPv6 address out of EGRESS_SOURCE",
        )
