"""The hardware address of the egress interface, and how it keeps other pods of the node from the addresses.

The kernel allows each hardware address for only one macvlan of a parent, across all namespaces, and refuses a
second one (EADDRINUSE). So an address that is derived from EGRESS_SOURCE is a lock among the pods of a node.
They need one if they cannot hear each other's probes: if one of them is in mode private or vepa ("deaf").

A deaf pod holds the lock for as long as it has the address. Pods in mode bridge hear each other, and hold it
only while they claim the address, to see whether a deaf pod has it. A deaf pod hears pods in mode bridge by
an interface in that mode, which it has while it probes. Each pod takes the lock before it probes, and
releases it, if at all, only when others can hear it: so of two that claim at the same moment, one notices the
other.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.kernel.rtnl_types import MADE
from egress_router.settings.hardware import MacChoice, derived_mac

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.kernel.netlink import Netlink
    from egress_router.kernel.rtnl_types import Link
    from egress_router.settings.setup import SetupSettings

_LOCK = "claim-"
_EAR = "claim-probe"
_DEAF = {"private", "vepa"}
_HEARING = "bridge"
_log = log.get("kernel")


def final_mac(link: Link, settings: SetupSettings) -> str | None:
    """Return the hardware address for the interface while it owns addresses; None: the one that it has.

    An existing interface keeps its own, unless an address is given. In mode passthru it is the parent's,
    which is not ours to choose.
    """
    choice = settings.mac_address
    if isinstance(choice, str):
        return choice
    if choice is MacChoice.RANDOM or link.macvlan_mode == "passthru" or link.alias != MADE:
        return None
    return derived_mac(settings.sources[0].address)


def probing_mac() -> str:
    """Return a hardware address to probe with: an owner with the final one would look like this pod."""
    octets = random.SystemRandom().randbytes(6)
    return bytes([(octets[0] | 0x02) & 0xFE, *octets[1:]]).hex(":")


def prepare(netlink: Netlink, link: Link, mac: str | None, *, is_claimed: bool) -> Link:
    """Return the interface, up, and with a hardware address to probe with if nothing is claimed yet.

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
    """Lock `address` for this pod by hardware addresses; return the owner if another pod of the node has it.

    Raises:
        RefusedError: the kernel refuses for another reason.
    """
    if mac is not None and link.mac != mac:
        _let_go(netlink, mac)
        if not netlink.set_mac(link, mac):
            return _another_pod(mac)
    lock = derived_mac(address)
    if link.macvlan_mode not in {*_DEAF, _HEARING} or lock == (mac or link.mac):
        return None
    return None if _hold(netlink, link, lock) else _another_pod(lock)


def is_deaf(link: Link) -> bool:
    """Say whether pods of the same node cannot hear each other on this interface."""
    return link.macvlan_mode in _DEAF


def mark(netlink: Netlink, link: Link, addresses: Sequence[IPAddress]) -> Mapping[IPAddress, str]:
    """Take the locks for addresses that are about to be claimed; return those that other pods hold.

    Raises:
        RefusedError: the kernel refuses for another reason.
    """
    locks = {address: derived_mac(address) for address in addresses}
    return {
        address: _another_pod(lock)
        for address, lock in locks.items()
        if lock != link.mac and not _hold(netlink, link, lock)
    }


@contextmanager
def ear(netlink: Netlink, link: Link) -> Iterator[Link]:
    """Provide an interface on the same parent that hears pods in mode bridge.

    Raises:
        RefusedError: the kernel refuses.
    """
    _delete(netlink, _EAR)
    try:
        netlink.add_beside(_EAR, link, probing_mac(), _HEARING)
    except RefusedError as error:
        raise _deaf_to_all(link, "pods in mode bridge cannot be heard", error) from None
    try:
        made = netlink.link(_EAR)
        if made is None or not netlink.try_up(made):
            raise RefusedError(f"cannot bring {_EAR} up", "run setup again")
        yield made
    finally:
        _delete(netlink, _EAR)


def _deaf_to_all(link: Link, what: str, error: RefusedError) -> RefusedError:
    return RefusedError(
        f"{link.name} is in macvlan mode {link.macvlan_mode}, in which pods of one node cannot hear each"
        f" other's probes, and {what}: {error.what}",
        "use EGRESS_MACVLAN_MODE=bridge",
    )


def _another_pod(mac: str) -> str:
    return f"another pod of this node, by the hardware address {mac},"


def _hold(netlink: Netlink, link: Link, mac: str) -> bool:
    """Hold a hardware address with an extra interface, which receives and sends nothing."""
    name = _lock_name(mac)
    if netlink.link(name) is None:
        try:
            netlink.add_beside(name, link, mac, "source")  # with an empty list it receives nothing
        except RefusedError as error:
            if not is_deaf(link):
                # Go on without locks: pods that can be heard are still noticed.
                _log.warning("pods in macvlan mode private or vepa cannot be noticed", error=error.what)
                return True
            raise _deaf_to_all(link, "the lock for the claim cannot be set on its parent", error) from None
    lock = netlink.link(name)
    if lock is not None and (lock.is_up or netlink.try_up(lock)):
        return True
    if lock is not None:
        netlink.delete_link(lock)
    return False


def _let_go(netlink: Netlink, mac: str) -> None:
    _delete(netlink, _lock_name(mac))


def _delete(netlink: Netlink, name: str) -> None:
    known = netlink.link(name)
    if known is not None and is_lock(known):
        netlink.delete_link(known)


def release(netlink: Netlink, addresses: Collection[IPAddress]) -> None:
    """Release all locks except those for these addresses."""
    kept = {_lock_name(derived_mac(address)) for address in addresses}
    for link in netlink.links():
        if is_lock(link) and link.name not in kept:
            netlink.delete_link(link)
            _log.debug("lock released", interface=link.name)


def is_lock(link: Link) -> bool:
    """Say whether an interface only holds a hardware address."""
    return link.name.startswith(_LOCK) and link.alias == MADE


def _lock_name(mac: str) -> str:
    return _LOCK + mac.replace(":", "")[-8:]
