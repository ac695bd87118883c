"""The macvlan interface: used as it is if it exists, else created on the parent interface."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.kernel import netns as namespaces
from egress_router.kernel.hardware import is_lock
from egress_router.kernel.netlink import MAIN_TABLE, Netlink
from egress_router.kernel.routing import REPLY_TABLE, versions
from egress_router.kernel.rtnl_types import MADE

if TYPE_CHECKING:
    from egress_router.kernel.rtnl_types import Link
    from egress_router.settings.setup import SetupSettings

_HOST = Path("/proc/1/ns/net")
_log = log.get("kernel")


def ensure_interface(own: Netlink, settings: SetupSettings) -> Link:
    """Return the egress interface; create it if it does not exist.

    Raises:
        RefusedError: there is no parent to create it on, or the kernel refuses.
    """
    link = own.link(settings.interface)
    if link is None:
        _create(own, settings)
        link = own.link(settings.interface)
        if link is None:
            raise RefusedError(f"{settings.interface} vanished after it was created", "run setup again")
        own.mark_made(link)
        link = replace(link, alias=MADE)
    else:
        _log.debug("interface is already there", interface=link.name, kind=link.kind or "physical")
    return link


def parent_outside(own: Netlink, settings: SetupSettings) -> Link | None:
    """Return the parent of the egress interface if it is in the pod's own namespace; None otherwise.

    It is on the outside network, as its macvlan is. None also if it is the pod's first interface: clients
    come in by it, too.

    Raises:
        RefusedError: there is no parent to create the egress interface on.
    """
    links = own.links()
    known = next((link for link in links if link.name == settings.interface), None)
    if known is not None:
        parent = next((link for link in links if _stands_on(known, link)), None)
    else:
        parent = _parent(own, settings) if _parent_netns(own, settings) is None else None
    if parent is None or not _is_first(own, parent, settings):
        return parent
    _log.warning(
        "the parent interface is the pod's first one: clients and the outside network come in by it alike",
        parent=parent.name,
    )
    return None


def _is_first(own: Netlink, parent: Link, settings: SetupSettings) -> bool:
    """Say whether clients come in by the parent: it is the only other one, or has (had) the default route."""
    aside = {"lo", settings.interface, parent.name}
    if not any(link.is_up and link.name not in aside and not is_lock(link) for link in own.links()):
        return True
    if settings.parent_interface == parent.name:
        return False
    return any(
        route.destination is None and route.index == parent.index
        for version in versions()
        for table in (MAIN_TABLE, REPLY_TABLE)
        for route in own.routes(version, table)
    )


def _stands_on(link: Link, other: Link) -> bool:
    # The "parent" of a veth is its other end.
    return link.kind != "veth" and link.parent == other.index != link.index


def _create(own: Netlink, settings: SetupSettings) -> None:
    parent_netns = _parent_netns(own, settings)
    with Netlink(parent_netns) as there:
        parent = _parent(there, settings)
        if parent_netns is not None:
            _refuse_taken(there, settings)
        descriptor = os.open(namespaces.OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            there.add_macvlan(settings.interface, parent, settings.macvlan_mode, descriptor)
        finally:
            os.close(descriptor)
    where = "own" if parent_netns is None else str(parent_netns)
    _log.info("interface created", interface=settings.interface, parent=parent.name, netns=where)


def _parent_netns(own: Netlink, settings: SetupSettings) -> Path | None:
    """Choose the namespace of the parent interface; None: that of this process."""
    if settings.parent_netns is not None:
        return None if namespaces.is_own(settings.parent_netns) else settings.parent_netns
    if settings.parent_interface is not None and own.link(settings.parent_interface) is not None:
        return None
    # Not `exists`, which follows the link and may lack permission: entering it then says what to grant.
    return _HOST if os.path.lexists(_HOST) and not namespaces.is_own(_HOST) else None


def _refuse_taken(there: Netlink, settings: SetupSettings) -> None:
    """Refuse an address of the parent's stack; no probe finds it, as a macvlan cannot reach its parent."""
    for source in settings.sources:
        holder = there.holder(source.address)
        if holder is not None:
            raise RefusedError(
                f"{source.address} is the node's own address, on {holder.name}",
                "give this router an EGRESS_SOURCE of its own, or take the address off the node",
            )


def _parent(there: Netlink, settings: SetupSettings) -> Link:
    if settings.parent_interface is not None:
        link = there.link(settings.parent_interface)
        if link is None:
            names = ", ".join(link.name for link in there.links())
            raise RefusedError(
                f"there is no parent interface {settings.parent_interface}",
                f"set EGRESS_PARENT_INTERFACE to one of: {names}",
            )
        return link
    for version in (4, 6):
        for route in sorted(there.routes(version), key=lambda route: route.metric):
            if route.destination is None:
                return next(link for link in there.links() if link.index == route.index)
    raise RefusedError(
        f"there is no interface {settings.interface}, and no default route that shows where to create it",
        "set EGRESS_PARENT_INTERFACE, or attach the interface to the pod (Multus, or the OKD annotation"
        ' pod.network.openshift.io/assign-macvlan: "true")',
    )
