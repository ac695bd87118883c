"""The source addresses on the egress interface: probes for them, adds them, removes old ones of ours."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.kernel import acd, hardware, sysctl, wire
from egress_router.kernel.acd import ClaimWait
from egress_router.net import rtnetlink

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.kernel.netlink import Netlink
    from egress_router.kernel.rtnl_types import Link
    from egress_router.settings.setup import SetupSettings, Source

_log = log.get("kernel")


def refuse_elsewhere(interface: str, sources: Sequence[Source]) -> None:
    """Refuse a source address that another interface of the pod has. Changes nothing.

    On two interfaces the address would work on neither: the kernel answers for it on the first one.

    Raises:
        RefusedError: another interface has one of them.
    """
    wanted = {source.address for source in sources}
    for index, address in rtnetlink.addresses():
        if address in wanted and (name := socket.if_indextoname(index)) != interface:
            raise RefusedError(
                f"{address} is on the pod's interface {name}, and EGRESS_INTERFACE is {interface}",
                f"set EGRESS_INTERFACE={name}, or take the address off {name} (`ip link del {name}` where an"
                " earlier run of setup made it)",
            )


@dataclass(frozen=True, slots=True)
class Holdings:
    """The egress interface and the source addresses that it has; `new` are those that were claimed now."""

    link: Link
    held: tuple[IPAddress, ...]
    new: tuple[IPAddress, ...]


def ensure_addresses(
    netlink: Netlink, link: Link, settings: SetupSettings, needed: Collection[IPAddress]
) -> Holdings:
    """Bring the interface up, with the source addresses on it.

    Addresses that an earlier run claimed are not probed for: a restarted init container finds its own. An
    address that a CNI plug-in gave the interface stays as it is, whatever its prefix length: routes are set
    explicitly. One that somebody else has is left out if it is not `needed` and another one of its family is
    held.

    Raises:
        RefusedError: somebody else on the wire has an address that cannot be left out, or the kernel refuses.
    """
    sources = settings.sources
    if any(source.address.version == 6 for source in sources):
        _enable_ipv6(link)
    claimed = [each for each in sources if _is_claimed(netlink, link, each)]
    _remove_earlier(netlink, link, sources)
    mac = hardware.final_mac(link, settings)
    station = _Station(netlink, hardware.prepare(netlink, link, mac, is_claimed=bool(claimed)), sources, mac)
    for source in claimed:
        station.add(source)
    missing = [source.address for source in sources if source not in claimed]
    if missing:
        has = {source.address for source in claimed}
        timeout = 0.0 if _may_lack(missing, has, needed) else settings.claim_timeout
        owners = acd.claim(station, missing, ClaimWait(timeout))
        has |= set(missing) - owners.keys()
        if owners and not _may_lack(owners, has, needed):
            hardware.release(netlink, has)
            raise acd.in_use(station, owners, timeout)
        for address, owner in owners.items():
            _log.warning("address is left out: another station has it", address=address, owner=owner)
        missing = [address for address in missing if address not in owners]
    held = tuple(source.address for source in sources if source in claimed or source.address in missing)
    hardware.release(netlink, held if hardware.is_deaf(link) else ())
    return Holdings(station.link, held, tuple(missing))


def _may_lack(
    addresses: Iterable[IPAddress], held: Collection[IPAddress], needed: Collection[IPAddress]
) -> bool:
    """Say whether a router can do its job without some addresses.

    It can if no line names them and it holds others of the same families.
    """
    families = {address.version for address in held}
    return all(address not in needed and address.version in families for address in addresses)


class _Station:
    """An `acd.Station`: the egress interface on its wire."""

    def __init__(self, netlink: Netlink, link: Link, sources: Sequence[Source], mac: str | None) -> None:
        self.link = link
        self._netlink = netlink
        self._sources = {source.address: source for source in sources}
        self._mac = mac

    @property
    def name(self) -> str:
        return self.link.name

    def has_carrier(self) -> bool:
        known = self._netlink.link(self.name)
        return known is not None and known.has_carrier

    def probe(self, addresses: Sequence[IPAddress]) -> Mapping[IPAddress, str]:
        found = wire.probe_round(self.link, addresses)
        if not hardware.is_deaf(self.link):
            return found
        left = [address for address in addresses if address not in found]
        found |= hardware.mark(self._netlink, self.link, left)
        left = [address for address in left if address not in found]
        if left:
            with hardware.ear(self._netlink, self.link) as ear:
                found |= wire.probe_round(ear, left)
        return found

    def take(self, address: IPAddress) -> str | None:
        owner = hardware.take(self._netlink, self.link, address, self._mac)
        if owner is None:
            self.link = self._netlink.link(self.name) or self.link
            self.add(self._sources[address])
            _log.info("address claimed", address=address, interface=self.name)
        return owner

    def add(self, source: Source) -> None:
        """Add the address, unless it is there or a CNI plug-in gave it."""
        known = [each for each in self._netlink.addresses(self.link.index) if each.address == source.address]
        if not any(each.prefix == source.prefix or not each.is_ours for each in known):
            self._netlink.add_address(self.link.index, source.address, source.prefix)


def _remove_earlier(netlink: Netlink, link: Link, sources: Sequence[Source]) -> None:
    """Remove addresses of an earlier run that are no longer wanted.

    This comes first: with an address the kernel may remove others of its subnet, which are then added again.
    """
    wanted = {(source.address, source.prefix) for source in sources}
    for known in netlink.addresses(link.index):
        if known.is_ours and (known.address, known.prefix) not in wanted:
            _log.info("address of an earlier run removed", address=known.address, interface=link.name)
            netlink.delete_address(link.index, known)


def _is_claimed(netlink: Netlink, link: Link, source: Source) -> bool:
    """Say whether an earlier run claimed the address.

    If `setup` added it, its flag says so; if a CNI plug-in did, the default route does, which is set after
    the claim.
    """
    known = [each for each in netlink.addresses(link.index) if each.address == source.address]
    return any(each.is_ours for each in known) or (
        bool(known)
        and any(
            route.is_ours
            and (route.destination, route.index, route.source) == (None, link.index, source.address)
            for route in netlink.routes(source.address.version)
        )
    )


def keep_to_itself(link: Link) -> None:
    """Make the interface answer and ask only with its own addresses, and learn no routes from the wire.

    Without this the outside network could learn the pod's other addresses (ARP flux), or the parent's
    hardware address for EGRESS_SOURCE. IPv6 needs no such setting: the kernel answers a solicitation only for
    addresses of the interface on which it arrived. If a write is refused, this matters little: what the
    outside sends to those addresses is dropped.
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
