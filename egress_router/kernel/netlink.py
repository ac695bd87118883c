"""rtnetlink of one network namespace with typed values: the only place that uses pyroute2.

What the kernel refuses becomes a `RefusedError`, which says what to grant.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, cast

from egress_router.errors import RefusedError
from egress_router.kernel import netns as namespaces
from egress_router.kernel.message import Message
from egress_router.kernel.rtnl_types import (
    FAMILIES,
    MADE,
    NOPREFIXROUTE,
    new_route_fields,
    read_address,
    read_link,
    read_route,
    route_fields,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from egress_router.grammar.address import IPAddress
    from egress_router.kernel.rtnl_types import Address, Link, Route

MAIN_TABLE = 254
# linux/neighbour.h, linux/if_link.h
_NUD_NONE, _NTF_USE, _ADDR_GEN_NONE = 0, 0x01, 1
_NODAD = 0x02  # IFA_F_NODAD: we have probed already
_NO_ARP = 0x80  # IFF_NOARP (linux/if.h)


class Netlink:
    """A netlink socket of one namespace (default: the process's own); close it with `with`."""

    def __init__(self, netns: Path | None = None) -> None:
        # Loaded late: it takes 16 MB, which `setup` can do without while nft takes 60 MB for 30,000 rules.
        from egress_router.kernel.pyroute2_loading import IPRoute  # noqa: PLC0415

        if netns is None:
            self._ipr = IPRoute()
        else:
            # DGRAM, because asyncio inside pyroute2 accepts no RAW socket; for netlink they are the same.
            sock = namespaces.open_socket(netns, socket.AF_NETLINK, socket.SOCK_DGRAM, 0)
            self._ipr = IPRoute(fileno=sock.detach())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._ipr.close()

    def links(self) -> tuple[Link, ...]:
        """Return all interfaces."""
        return tuple(read_link(Message(message)) for message in self._ipr.get_links())

    def link(self, name: str) -> Link | None:
        """Return the interface with this name; None if there is none."""
        from egress_router.kernel.pyroute2_loading import NetlinkError  # noqa: PLC0415 (as above)

        try:
            (message,) = self._ipr.link("get", ifname=name)
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise
        return read_link(Message(message))

    def add_macvlan(self, name: str, parent: Link, mode: str, netns: int) -> None:
        """Create a macvlan interface on `parent`, directly in the namespace of the descriptor `netns`.

        With IFLA_NET_NS_FD the kernel looks the parent up here and creates the link there in one step, so no
        unfinished interface is ever left in the parent's namespace.
        """
        with _refused(f"cannot create the macvlan interface {name} on {parent.name}"):
            self._ipr.link(
                "add",
                ifname=name,
                kind="macvlan",
                link=parent.index,
                macvlan_mode=mode,
                mtu=parent.mtu,
                net_ns_fd=netns,
            )

    def add_beside(self, name: str, beside: Link, mac: str, mode: str) -> None:
        """Create a macvlan beside another one, on the same parent, on which the kernel sends nothing.

        A macvlan on a macvlan becomes a macvlan on the parent of the other, in whatever namespace it is
        (macvlan_common_newlink). The kernel answers no ARP request there, and without a link-local address it
        sends nothing.
        """
        with _refused(f"cannot create {name} beside {beside.name}"):
            self._ipr.link(
                "add", ifname=name, kind="macvlan", link=beside.index, macvlan_mode=mode, address=mac
            )
            index = self._ipr.link_lookup(ifname=name)[0]
            self._ipr.link("set", index=index, ifalias=MADE, flags=_NO_ARP, change=_NO_ARP)
            # Not at its creation: the kernel accepts IFLA_INET6_ADDR_GEN_MODE only once the interface exists.
            self._ipr.link(
                "set",
                index=index,
                IFLA_AF_SPEC={
                    "attrs": [["AF_INET6", {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_NONE]]}]]
                },
            )

    def mark_made(self, link: Link) -> None:
        """Mark an interface as ours."""
        with _refused(f"cannot mark {link.name}"):
            self._ipr.link("set", index=link.index, ifalias=MADE)

    def delete_link(self, link: Link) -> None:
        """Delete an interface; it is no error if it is already gone."""
        with _refused(f"cannot delete {link.name}", harmless=errno.ENODEV):
            self._ipr.link("del", index=link.index)

    def set_mac(self, link: Link, mac: str) -> bool:
        """Give an interface a hardware address; False if another macvlan of its parent has it."""
        return self._unless_taken(f"cannot give {link.name} the address {mac}", link, address=mac)

    def try_up(self, link: Link) -> bool:
        """Bring an interface up; False if another macvlan of its parent has its hardware address."""
        return self._unless_taken(f"cannot bring {link.name} up", link, state="up")

    def _unless_taken(self, what: str, link: Link, **change: object) -> bool:
        from egress_router.kernel.pyroute2_loading import NetlinkError  # noqa: PLC0415 (as above)

        with _refused(what):
            try:
                self._ipr.link("set", index=link.index, **change)
            except NetlinkError as error:
                if error.code == errno.EADDRINUSE:
                    return False
                raise
        return True

    def announce(self, index: int, address: IPAddress) -> None:
        """Make the kernel send three ARP announcements of an own IPv4 address: now, after 1 s and after 2 s.

        It does so by itself, even after this process has ended: to resolve the address as a neighbour, the
        kernel sends ARP requests from the address for itself (RFC 5227 3).
        """
        with _refused(f"cannot announce {address}"):
            self._ipr.neigh("replace", ifindex=index, dst=str(address), state=_NUD_NONE, flags=_NTF_USE)

    def set_up(self, link: Link) -> None:
        """Bring an interface up."""
        with _refused(f"cannot bring {link.name} up"):
            self._ipr.link("set", index=link.index, state="up")

    def addresses(self, index: int) -> tuple[Address, ...]:
        """Return the addresses of an interface."""
        return tuple(read_address(Message(message)) for message in self._ipr.get_addr(index=index))

    def holder(self, address: IPAddress) -> Link | None:
        """Return the interface that has this address; None if there is none."""
        return next(
            (
                link
                for link in self.links()
                if any(each.address == address for each in self.addresses(link.index))
            ),
            None,
        )

    def add_address(self, index: int, address: IPAddress, prefix: int) -> None:
        """Give an interface an address, without duplicate address detection and without a route."""
        with _refused(f"cannot add the address {address}/{prefix}"):
            self._ipr.addr(
                "replace",
                index=index,
                address=str(address),
                prefixlen=prefix,
                family=FAMILIES[address.version],
                flags=NOPREFIXROUTE | (_NODAD if address.version == 6 else 0),
            )

    def delete_address(self, index: int, known: Address) -> None:
        """Remove an address from an interface."""
        with _refused(f"cannot delete the address {known.address}/{known.prefix}"):
            self._ipr.addr(
                "del",
                index=index,
                address=str(known.address),
                prefixlen=known.prefix,
                family=FAMILIES[known.address.version],
            )

    def routes(self, version: int, table: int = MAIN_TABLE) -> tuple[Route, ...]:
        """Return the unicast routes of a table, in the kernel's order."""
        dump = self._ipr.get_routes(family=FAMILIES[version], table=table)
        # Old kernels ignore the filter and dump every table.
        found = (
            read_route(message, version)
            for message in map(Message, dump)
            if message.number("RTA_TABLE") == table
        )
        return tuple(route for route in found if route is not None)

    def replace_route(self, route: Route, version: int, table: int = MAIN_TABLE) -> None:
        """Add a route, or replace the one with the same destination and metric."""
        with _refused(f"cannot set the route to {route.destination or 'default'} via {route.gateway}"):
            self._ipr.route("replace", **new_route_fields(route, version, table))

    def delete_route(self, route: Route, version: int, table: int = MAIN_TABLE) -> None:
        """Delete a route; it is no error if it is already gone."""
        with _refused(f"cannot delete the route to {route.destination or 'default'}", harmless=errno.ESRCH):
            self._ipr.route("del", **route_fields(route, version, table))

    def has_mark_rule(self, version: int, mark: int, table: int) -> bool:
        """Say whether packets with this mark already use this table."""
        return any(
            rule.number("FRA_FWMARK") == mark
            and rule.number("FRA_FWMASK") == mark
            and rule.number("FRA_TABLE") == table
            for rule in map(Message, self._ipr.get_rules(family=FAMILIES[version]))
        )

    def add_mark_rule(self, version: int, mark: int, table: int, priority: int) -> None:
        """Make packets with this mark use this table."""
        with _refused("cannot set the policy route for replies"):
            self._ipr.rule(
                "add",
                family=FAMILIES[version],
                fwmark=mark,
                fwmask=mark,
                table=table,
                priority=priority,
                action=1,  # FR_ACT_TO_TBL
            )


@contextmanager
def _refused(what: str, harmless: int | None = None) -> Iterator[None]:
    from egress_router.kernel.pyroute2_loading import NetlinkError  # noqa: PLC0415 (as above)

    try:
        yield
    except NetlinkError as error:
        code = cast("int", error.code)
        if code == harmless:
            return
        said = os.strerror(code)
        if code in {errno.EPERM, errno.EACCES}:
            remedy = "grant NET_ADMIN"
        elif code == errno.ENETUNREACH:
            remedy = "check that EGRESS_GATEWAY is on the subnet of EGRESS_SOURCE"
        elif code == errno.EBUSY:
            remedy = "the parent interface is in use by another driver (a bridge port, or macvlan passthru)"
        elif code == errno.EOPNOTSUPP:
            remedy = "load the macvlan module on the node"
        else:
            remedy = "see `ip link` and `ip route` in the pod"
        raise RefusedError(f"{what} ({said})", remedy) from None
