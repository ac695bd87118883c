"""rtnetlink of one network namespace with typed values: the one place that touches pyroute2.

What the kernel refuses comes out as `RefusedError`, with what to grant.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Self, cast

from egress_router.errors import RefusedError
from egress_router.kernel import netns as namespaces

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from egress_router.grammar.address import IPAddress, IPNetwork

MAIN_TABLE = 254
_UNICAST = 1  # RTN_UNICAST; other types (local, broadcast, unreachable) are not ours to copy
_ONLINK = 0x4  # RTNH_F_ONLINK
_NODAD = 0x02  # IFA_F_NODAD: the probe was ours
_NOPREFIXROUTE = 0x200  # IFA_F_NOPREFIXROUTE: routes are set explicitly
_CLONED = 0x200  # RTM_F_CLONED: cached path-MTU exceptions
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class Link:
    """One interface; `kind` is empty for a physical one."""

    index: int
    name: str
    kind: str
    mtu: int
    mac: str
    is_up: bool


@dataclass(frozen=True, slots=True)
class Address:
    """One address of an interface; `is_ours` when it came without a route of its own, as `setup` adds it."""

    address: IPAddress
    prefix: int
    is_ours: bool


@dataclass(frozen=True, slots=True)
class Route:
    """One unicast route; `destination` None is the default route, `gateway` None means on the link."""

    destination: IPNetwork | None
    gateway: IPAddress | None
    index: int
    scope: int = 0
    source: IPAddress | None = None
    metric: int = 0
    onlink: bool = False


class Netlink:
    """A netlink socket of one namespace (default: the process's own); close it with `with`."""

    def __init__(self, netns: Path | None = None) -> None:
        # Loaded here: 16 MB that `setup` need not have while nft takes 60 for 30,000 rules.
        from pyroute2 import IPRoute  # noqa: PLC0415

        if netns is None:
            self._ipr = IPRoute()
        else:
            # DGRAM, because asyncio inside pyroute2 takes no RAW socket; netlink knows no difference.
            made = namespaces.open_socket(netns, socket.AF_NETLINK, socket.SOCK_DGRAM, 0)
            self._ipr = IPRoute(fileno=made.detach())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._ipr.close()

    def links(self) -> tuple[Link, ...]:
        """Return all interfaces."""
        return tuple(_link(message) for message in self._ipr.get_links())

    def link(self, name: str) -> Link | None:
        """Return the interface of this name; None where there is none."""
        return next((link for link in self.links() if link.name == name), None)

    def add_macvlan(self, name: str, parent: Link, mode: str, netns: int) -> None:
        """Create a macvlan interface on `parent`, directly in the namespace of the descriptor `netns`.

        IFLA_NET_NS_FD makes the kernel look the parent up here and create the link there in one step, so no
        half-made interface is ever left in the parent's namespace.
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

    def set_up(self, link: Link) -> None:
        """Bring an interface up."""
        with _refused(f"cannot bring {link.name} up"):
            self._ipr.link("set", index=link.index, state="up")

    def addresses(self, index: int) -> tuple[Address, ...]:
        """Return the addresses of an interface."""
        found = []
        for message in self._ipr.get_addr(index=index):
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            flags = cast("int", message.get_attr("IFA_FLAGS") or message["flags"])
            address = ip_address(cast("str", text))
            found.append(Address(address, cast("int", message["prefixlen"]), bool(flags & _NOPREFIXROUTE)))
        return tuple(found)

    def holder(self, address: IPAddress) -> Link | None:
        """Return the interface that has this address; None where none has."""
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
                family=_FAMILIES[address.version],
                flags=_NOPREFIXROUTE | (_NODAD if address.version == 6 else 0),
            )

    def delete_address(self, index: int, known: Address) -> None:
        """Take an address off an interface."""
        with _refused(f"cannot delete the address {known.address}/{known.prefix}"):
            self._ipr.addr(
                "del",
                index=index,
                address=str(known.address),
                prefixlen=known.prefix,
                family=_FAMILIES[known.address.version],
            )

    def routes(self, version: int, table: int = MAIN_TABLE) -> tuple[Route, ...]:
        """Return the unicast routes of a table, in the kernel's order."""
        found = []
        for message in self._ipr.get_routes(family=_FAMILIES[version], table=table):
            # Old kernels ignore the filter and dump every table.
            if message.get_attr("RTA_TABLE") == table and message["type"] == _UNICAST:
                route = None if message["flags"] & _CLONED else _route(message, version)
                if route is not None:
                    found.append(route)
        return tuple(found)

    def replace_route(self, route: Route, version: int, table: int = MAIN_TABLE) -> None:
        """Add a route, or put it in the place of the one with the same destination and metric."""
        with _refused(f"cannot set the route to {route.destination or 'default'} via {route.gateway}"):
            self._ipr.route("replace", **_route_fields(route, version, table))

    def delete_route(self, route: Route, version: int, table: int = MAIN_TABLE) -> None:
        """Delete a route."""
        with _refused(f"cannot delete the route to {route.destination or 'default'}"):
            self._ipr.route("del", **_route_fields(route, version, table))

    def has_mark_rule(self, version: int, mark: int, table: int) -> bool:
        """Say whether packets with this mark already use this table."""
        return any(
            rule.get_attr("FRA_FWMARK") == mark
            and rule.get_attr("FRA_FWMASK") == mark
            and rule.get_attr("FRA_TABLE") == table
            for rule in self._ipr.get_rules(family=_FAMILIES[version])
        )

    def add_mark_rule(self, version: int, mark: int, table: int, priority: int) -> None:
        """Have packets with this mark use this table."""
        with _refused("cannot set the policy route for replies"):
            self._ipr.rule(
                "add",
                family=_FAMILIES[version],
                fwmark=mark,
                fwmask=mark,
                table=table,
                priority=priority,
                action=1,  # FR_ACT_TO_TBL
            )


def _link(message: object) -> Link:
    get = message.get_attr  # type: ignore[attr-defined]
    info = get("IFLA_LINKINFO")
    return Link(
        index=message["index"],  # type: ignore[index]
        name=get("IFLA_IFNAME"),
        kind=(info.get_attr("IFLA_INFO_KIND") or "") if info is not None else "",
        mtu=get("IFLA_MTU"),
        mac=get("IFLA_ADDRESS") or "",
        is_up=bool(message["flags"] & 1),  # type: ignore[index]
    )


def _route(message: object, version: int) -> Route | None:
    """Read a route; of a multipath route the first next hop. None where it names no interface."""
    get = message.get_attr  # type: ignore[attr-defined]
    hop, flags = get, message["flags"]  # type: ignore[index]
    paths = get("RTA_MULTIPATH")
    if paths:
        hop, flags = paths[0].get_attr, paths[0]["flags"]
        index = paths[0]["oif"]
    else:
        index = get("RTA_OIF")
    if index is None:
        return None
    destination = get("RTA_DST")
    length = message["dst_len"]  # type: ignore[index]
    gateway, via, source = hop("RTA_GATEWAY"), hop("RTA_VIA"), get("RTA_PREFSRC")
    if gateway is None and via is not None:
        gateway = via["addr"]
    if destination is None and length:
        destination = "0.0.0.0" if version == 4 else "::"  # noqa: S104 (a half default such as 0.0.0.0/1)
    return Route(
        destination=None if destination is None else ip_network(f"{destination}/{length}"),
        gateway=None if gateway is None else ip_address(gateway),
        index=index,
        scope=message["scope"],  # type: ignore[index]
        source=None if source is None else ip_address(source),
        metric=get("RTA_PRIORITY") or 0,
        onlink=bool(flags & _ONLINK),
    )


def _route_fields(route: Route, version: int, table: int) -> dict[str, object]:
    fields: dict[str, object] = {
        "family": _FAMILIES[version],
        "table": table,
        "oif": route.index,
        "scope": route.scope,
        "dst": "default" if route.destination is None else str(route.destination),
    }
    if route.gateway is not None and route.gateway.version == version:
        fields["gateway"] = str(route.gateway)
    elif route.gateway is not None:
        fields["via"] = {"family": _FAMILIES[route.gateway.version], "addr": str(route.gateway)}
    if route.source is not None:
        fields["prefsrc"] = str(route.source)
    if route.metric:
        fields["priority"] = route.metric
    if route.onlink:
        fields["flags"] = _ONLINK
    return fields


@contextmanager
def _refused(what: str) -> Iterator[None]:
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 (as above)

    try:
        yield
    except NetlinkError as error:
        code = cast("int", error.code)
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
