"""The source addresses on the egress interface: probed for, added, announced; old ones of ours taken off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.kernel import claim, sysctl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.kernel.messages import Link
    from egress_router.kernel.netlink import Netlink
    from egress_router.settings.setup import Source

_log = log.get("kernel")


def ensure_addresses(
    netlink: Netlink, link: Link, sources: Sequence[Source], timeout: float
) -> tuple[IPAddress, ...]:
    """Make the interface hold the source addresses; return those that were claimed now.

    An address that is there already is not probed for: a restarted init container finds its own.

    Raises:
        RefusedError: another interface of the pod or somebody else on the wire has one of them, or the kernel
            refuses.
    """
    held = netlink.addresses(link.index)
    wanted = {(source.address, source.prefix) for source in sources}
    new = [source for source in sources if all(known.address != source.address for known in held)]
    if any(source.address.version == 6 for source in sources):
        _enable_ipv6(link)
    for source in new:
        _refuse_elsewhere(netlink, link, source.address)
    if new:
        claim.await_free(link, [source.address for source in new], timeout)
    for known in held:
        if known.is_ours and (known.address, known.prefix) not in wanted:
            _log.info("address of an earlier run removed", address=known.address, interface=link.name)
            netlink.delete_address(link.index, known)
    present = {(known.address, known.prefix) for known in held}
    for source in sources:
        if (source.address, source.prefix) not in present:
            netlink.add_address(link.index, source.address, source.prefix)
            _log.info("address claimed", address=source.address, interface=link.name)
    return tuple(source.address for source in new)


def keep_to_itself(link: Link) -> None:
    """Have the interface answer and ask only with its own addresses, and learn no routes from the wire.

    Without this the outside network could learn the pod's other addresses (ARP flux). Refused writes do not
    matter much: what the outside sends to those addresses is dropped.
    """
    for name, value in (
        (f"net/ipv4/conf/{link.name}/arp_ignore", 1),
        (f"net/ipv4/conf/{link.name}/arp_announce", 2),
        (f"net/ipv6/conf/{link.name}/accept_ra", 0),
        (f"net/ipv6/conf/{link.name}/autoconf", 0),
    ):
        if sysctl.read(name) is not None and not sysctl.ensure(name, value):
            _log.debug("sysctl is read-only", name=name, wanted=value)


def _refuse_elsewhere(netlink: Netlink, link: Link, address: IPAddress) -> None:
    """On two interfaces the address would work on neither: the kernel answers for it on the first one."""
    holder = netlink.holder(address)
    if holder is not None:
        raise RefusedError(
            f"{address} is on the pod's interface {holder.name}, and EGRESS_INTERFACE is {link.name}",
            f"set EGRESS_INTERFACE={holder.name}, or take the address off {holder.name}",
        )


def _enable_ipv6(link: Link) -> None:
    if not sysctl.ensure(f"net/ipv6/conf/{link.name}/disable_ipv6", 0):
        raise RefusedError(
            f"IPv6 is off on {link.name} and /proc/sys is read-only",
            "enable IPv6 in the pod, or leave the IPv6 address out of EGRESS_SOURCE",
        )
