"""The hardware address of the egress interface, and what it keeps other pods of the node from.

The kernel gives one hardware address to one macvlan of a parent only, whatever namespace each is in, and
refuses a second one (EADDRINUSE). So an address that is derived from EGRESS_SOURCE is a lock among the pods
of a node. They need one where they cannot hear each other's probes: in the modes private and vepa.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.kernel.rtnl_types import MADE
from egress_router.settings.hardware import MacChoice, derived_mac

if TYPE_CHECKING:
    from collections.abc import Collection

    from egress_router.grammar.address import IPAddress
    from egress_router.kernel.netlink import Netlink
    from egress_router.kernel.rtnl_types import Link
    from egress_router.settings.setup import SetupSettings

_LOCK = "claim-"
_DEAF = {"private", "vepa"}
_log = log.get("kernel")


def final_mac(link: Link, settings: SetupSettings) -> str | None:
    """Return the hardware address that the interface shall have while it owns addresses; None: what it has.

    An interface that is there already keeps its own, unless an address is given. In mode passthru it is the
    parent's, which is not ours to choose.
    """
    choice = settings.mac_address
    if isinstance(choice, str):
        return choice
    if choice is MacChoice.RANDOM or link.macvlan_mode == "passthru" or link.alias != MADE:
        return None
    return derived_mac(settings.sources[0].address)


def probing_mac() -> str:
    """Return a hardware address to probe with: an owner with the final one would look like oneself."""
    octets = random.SystemRandom().randbytes(6)
    return bytes([(octets[0] | 0x02) & 0xFE, *octets[1:]]).hex(":")


def prepare(netlink: Netlink, link: Link, mac: str | None, *, is_claimed: bool) -> Link:
    """Return the interface, up, and with a hardware address to probe with if it has nothing yet.

    Raises:
        RefusedError: another pod of the node has its hardware address, or the kernel refuses.
    """
    if link.mac == mac and not is_claimed:
        netlink.set_mac(link, probing_mac())
    if not link.is_up and not netlink.try_up(link):
        raise RefusedError(
            f"cannot bring {link.name} up: {_another_pod(link.mac)} has EGRESS_SOURCE",
            "stop the other pod, or give this router another EGRESS_SOURCE",
        )
    return netlink.link(link.name) or link


def take(netlink: Netlink, link: Link, address: IPAddress, mac: str | None) -> str | None:
    """Have hardware addresses say that this pod owns `address`; return who does if another of the node does.

    Raises:
        RefusedError: the kernel refuses for another reason.
    """
    if mac is not None and link.mac != mac and not netlink.set_mac(link, mac):
        return _another_pod(mac)
    lock = derived_mac(address)
    if link.macvlan_mode not in _DEAF or lock == (mac or link.mac):
        return None
    return None if _hold(netlink, link, lock) else _another_pod(lock)


def _another_pod(mac: str) -> str:
    return f"another pod of this node, by the hardware address {mac},"


def _hold(netlink: Netlink, link: Link, mac: str) -> bool:
    """Hold a hardware address by an interface of its own, which receives and sends nothing."""
    name = _lock_name(mac)
    if netlink.link(name) is None:
        try:
            netlink.add_lock(name, link, mac)
        except RefusedError as error:
            raise RefusedError(
                f"{link.name} is in macvlan mode {link.macvlan_mode}, in which pods of one node cannot hear"
                f" each other's probes, and the claim cannot be marked on its parent: {error.what}",
                "use EGRESS_MACVLAN_MODE=bridge",
            ) from None
    lock = netlink.link(name)
    if lock is not None and (lock.is_up or netlink.try_up(lock)):
        return True
    if lock is not None:
        netlink.delete_link(lock)
    return False


def release(netlink: Netlink, addresses: Collection[IPAddress]) -> None:
    """Let go of the locks for all addresses but these."""
    kept = {_lock_name(derived_mac(address)) for address in addresses}
    for link in netlink.links():
        if is_lock(link) and link.name not in kept:
            netlink.delete_link(link)
            _log.debug("lock released", interface=link.name)


def is_lock(link: Link) -> bool:
    """Say whether an interface is none but holds a hardware address."""
    return link.name.startswith(_LOCK) and link.alias == MADE


def _lock_name(mac: str) -> str:
    return _LOCK + mac.replace(":", "")[-8:]
