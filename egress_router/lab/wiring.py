"""Cables, switches, addresses and routes between hosts of the laboratory, by pyroute2."""

from __future__ import annotations

import itertools
from ipaddress import ip_interface
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egress_router.lab.host import Host

_NODAD = 0x02  # IFA_F_NODAD: no second is lost with duplicate address detection

# The ends of a cable have different indexes (the kernel gives the other end a low one): then the link watch
# reports a carrier at once, and not up to a second later (net/core/link_watch.c, linkwatch_urgent_event).
_INDEXES = itertools.count(100)


def cable(one: Host, one_name: str, other: Host, other_name: str) -> None:
    """Connect two hosts by a cable: a veth pair, both ends up."""
    one.indexes[one_name] = next(_INDEXES)
    peer = {"ifname": other_name, "net_ns_pid": other.pid}
    one.ipr.link("add", ifname=one_name, kind="veth", index=one.indexes[one_name], peer=peer)
    other.indexes[other_name] = _look_up(other, other_name)
    for host, name in ((one, one_name), (other, other_name)):
        set_up(host, name)


def switch(host: Host, name: str, *ports: str) -> None:
    """Create a switch (a bridge) in a host; `ports` are interfaces of the host."""
    host.indexes[name] = next(_INDEXES)
    host.ipr.link("add", ifname=name, kind="bridge", index=host.indexes[name])
    for port in ports:
        plug(host, name, port)
    set_up(host, name)


def plug(host: Host, name: str, port: str) -> None:
    """Make an interface a port of a switch."""
    host.ipr.link("set", index=_index(host, port), master=_index(host, name))


def join(host: Host, name: str, to: tuple[Host, str, str], *addresses: str) -> None:
    """Create an interface with addresses, on a switch: the switch's host, its name, and the new port."""
    switch_host, switch_name, port = to
    cable(host, name, switch_host, port)
    plug(switch_host, switch_name, port)
    address(host, name, *addresses)


def macvlan(pod: Host, node: Host, parent: str, mode: str = "bridge") -> None:
    """Give a pod its macvlan0 on an interface of its node, as a network plug-in does."""
    name = f"mv{pod.pid}"
    node.ipr.link("add", ifname=name, kind="macvlan", link=_index(node, parent), macvlan_mode=mode)
    node.ipr.link("set", index=_index(node, name), net_ns_pid=pod.pid)
    pod.ipr.link("set", index=_index(pod, name), ifname="macvlan0")


def address(host: Host, name: str, *texts: str) -> None:
    """Give an interface addresses, written with their prefix length."""
    for text in texts:
        interface = ip_interface(text)
        flags = {"flags": _NODAD} if interface.version == 6 else {}
        host.ipr.addr(
            "add",
            index=_index(host, name),
            address=str(interface.ip),
            prefixlen=interface.network.prefixlen,
            **flags,
        )


def default_route(host: Host, *gateways: str) -> None:
    """Give a host its default routes."""
    for gateway in gateways:
        host.ipr.route("add", dst="default", gateway=gateway)


def route(host: Host, network: str, gateway: str) -> None:
    """Give a host a route to a network."""
    host.ipr.route("add", dst=network, gateway=gateway)


def set_up(host: Host, name: str) -> None:
    """Bring an interface up."""
    host.ipr.link("set", index=_index(host, name), state="up")


def set_down(host: Host, name: str) -> None:
    """Take an interface down."""
    host.ipr.link("set", index=_index(host, name), state="down")


def _index(host: Host, name: str) -> int:
    return host.indexes[name] if name in host.indexes else _look_up(host, name)


def _look_up(host: Host, name: str) -> int:
    index: int = host.ipr.link_lookup(ifname=name)[0]
    return index
