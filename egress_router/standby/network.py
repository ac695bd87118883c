"""The network of a standby router: the fence first, then addresses and routes. Other stations see nothing."""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.kernel import sysctl
from egress_router.kernel.addresses import Holdings
from egress_router.kernel.fence import Fence
from egress_router.kernel.hardware import prepare, probing_mac
from egress_router.kernel.nat.plan import REPLY_MARK
from egress_router.kernel.neighbour import mac_bytes
from egress_router.net import rtnetlink
from egress_router.settings.hardware import MacChoice, derived_mac
from egress_router.standby.kubernetes.objects import number_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.kernel.netlink import Netlink
    from egress_router.kernel.rtnl_types import Link
    from egress_router.settings.setup import SetupSettings, Source
    from egress_router.settings.standby import StandbySettings

_log = log.get("standby")


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """The interface of a router, what its group shares, and its own pod."""

    interface: str
    index: int
    sources: tuple[IPAddress, ...]
    gateways: tuple[IPAddress, ...]
    shared_mac: bytes | None  # None: every router keeps its own hardware address
    own_mac: bytes
    pod_address: IPAddress | None
    port: int
    mark: int
    claim_timeout: float


@dataclass(frozen=True, slots=True)
class StandbyNetwork:
    """What the agent of a standby router needs: the fence, up and closed, and its configuration."""

    fence: Fence
    config: RouterConfig
    number: int  # of this run
    dead: frozenset[int]  # earlier runs in this pod, whose gate is closed now


def set_up(link: Link, settings: SetupSettings, standby: StandbySettings) -> StandbyNetwork:
    """Set the fence up, before the interface has an address.

    Raises:
        RefusedError: the kernel refuses.
    """
    sources = tuple(source.address for source in settings.sources)
    shared_mac = _shared_mac(settings)
    config = RouterConfig(
        interface=link.name,
        index=link.index,
        sources=sources,
        gateways=tuple(dict.fromkeys(source.gateway for source in settings.sources)),
        shared_mac=None if shared_mac is None else mac_bytes(shared_mac),
        own_mac=_own_mac(link, shared_mac),
        pod_address=pod_address(link.name),
        port=standby.port,
        mark=REPLY_MARK,
        claim_timeout=settings.claim_timeout,
    )
    number = secrets.randbits(63) | 1
    fence = Fence(link.name, sources, shared_mac, number_text(number))
    dead = frozenset(int(each, 16) for each in fence.predecessors if each != number_text(number))
    return StandbyNetwork(fence, config, number, dead)


def _shared_mac(settings: SetupSettings) -> str | None:
    if isinstance(settings.mac_address, str):
        return settings.mac_address
    return derived_mac(settings.sources[0].address) if settings.mac_address is MacChoice.AUTO else None


def _own_mac(link: Link, shared: str | None) -> bytes:
    """Return the hardware address that the interface has while this router is not active."""
    if link.mac and link.mac != shared:
        return mac_bytes(link.mac)
    return mac_bytes(probing_mac())


def pod_address(interface: str) -> IPAddress | None:
    """Return the pod's own address, which is not on the egress interface; IPv4 if it has both."""
    found = [
        address
        for index, address in rtnetlink.addresses()
        if socket.if_indextoname(index) not in {interface, "lo"} and not address.is_link_local
    ]
    return min(found, key=lambda address: address.version, default=None)


def ensure_addresses(netlink: Netlink, link: Link, sources: Sequence[Source]) -> Holdings:
    """Give the interface the source addresses, behind the fence; the active router has them as well.

    Raises:
        RefusedError: a CNI plug-in gave the interface the address, or the kernel refuses.
    """
    if any(source.address.version == 6 for source in sources) and not sysctl.ensure(
        f"net/ipv6/conf/{link.name}/disable_ipv6", 0
    ):
        raise RefusedError(
            f"IPv6 is off on {link.name} and /proc/sys is read-only",
            "enable IPv6 in the pod, or leave the IPv6 address out of EGRESS_SOURCE",
        )
    wanted = {(source.address, source.prefix) for source in sources}
    addresses = {source.address for source in sources}
    held = netlink.addresses(link.index)
    for existing in held:
        if existing.address in addresses and not existing.is_ours:
            raise RefusedError(
                f"{existing.address} was given to {link.name} before the fence was up",
                "have the CNI plug-in create the interface without an address, or let setup create it",
            )
        if existing.is_ours and (existing.address, existing.prefix) not in wanted:
            _log.info("address of an earlier run removed", address=existing.address, interface=link.name)
            netlink.delete_address(link.index, existing)
    present = {(existing.address, existing.prefix) for existing in held}
    for source in sources:
        if (source.address, source.prefix) not in present:
            netlink.add_address(link.index, source.address, source.prefix)
    # The agent sets the hardware address.
    link = prepare(netlink, link, None, is_claimed=True)
    return Holdings(link, tuple(source.address for source in sources), ())
