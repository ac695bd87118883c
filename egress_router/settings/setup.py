"""Settings of `egress-router setup`."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router.errors import Problem
from egress_router.grammar.address import AddressError, IPAddress, IPNetwork, parse_address, parse_network
from egress_router.settings import common
from egress_router.settings.variables import (
    Environment,
    RulesSource,
    RulesVariable,
    Variable,
    non_empty,
    one_of,
    required,
    seconds,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


class RouterMode(enum.Enum):
    """What `setup` does beside the network: redirect and exit, redirect and stay, or nothing for a proxy."""

    INIT = "init"
    LEGACY = "legacy"
    HTTP_PROXY = "http-proxy"
    DNS_PROXY = "dns-proxy"

    @property
    def redirects(self) -> bool:
        """Whether this mode sets redirect rules."""
        return self in {RouterMode.INIT, RouterMode.LEGACY}


@dataclass(frozen=True, slots=True)
class Source:
    """The address to claim in one family, its subnet's length (all bits: none given), and its gateway."""

    address: IPAddress
    prefix: int
    gateway: IPAddress

    @property
    def knows_subnet(self) -> bool:
        """Whether a subnet was given; without one only the gateway is reachable on it."""
        return self.prefix < self.address.max_prefixlen


def _addresses(text: str) -> tuple[tuple[IPAddress, int], ...]:
    found = []
    for part in text.split(","):
        address_text, slash, length = part.strip().partition("/")
        address = parse_address(address_text)
        if address.is_unspecified or address.is_multicast or address.is_loopback:
            raise AddressError(f"{address_text!r} cannot be an address on a subnet")
        if slash and not (
            length.isascii() and length.isdecimal() and 1 <= int(length[:4]) <= address.max_prefixlen
        ):
            raise AddressError(
                f"invalid subnet length {length!r} (a number from 1 to {address.max_prefixlen})"
            )
        found.append((address, int(length) if slash else address.max_prefixlen))
    if len({address.version for address, _ in found}) != len(found):
        raise AddressError("expected one address, or one IPv4 and one IPv6 address separated by a comma")
    return tuple(found)


def _gateways(text: str) -> tuple[IPAddress, ...]:
    if "/" in text:
        raise AddressError("expected an address without a length")
    return tuple(address for address, _ in _addresses(text))


def _networks(text: str) -> tuple[IPNetwork, ...]:
    return tuple(parse_network(part.strip()) for part in text.split(",") if part.strip())


def _interface(text: str) -> str:
    # IFNAMSIZ is 16 with the closing NUL; the kernel refuses "/" and white space (dev_valid_name).
    if not 0 < len(text.encode()) < 16 or "/" in text or text in {".", ".."} or any(map(str.isspace, text)):
        raise ValueError("expected the name of an interface (1 to 15 characters)")
    return text


def _optional_interface(text: str) -> str | None:
    return None if text == "auto" else _interface(text)


def _optional_path(text: str) -> Path | None:
    if text == "auto":
        return None
    if not text.startswith("/"):
        raise ValueError("expected the path of a network namespace, such as /proc/1/ns/net")
    return Path(text)


SOURCE = Variable(
    "EGRESS_SOURCE",
    "address to claim, with the length of its subnet (`192.168.12.99/24`; without: only the gateway is"
    " reachable there); a second, comma-separated IPv6 address makes the router dual-stack",
    None,
    _addresses,
)
GATEWAY = Variable(
    "EGRESS_GATEWAY",
    "next hop for everything outside the cluster; comma-separated IPv6 second",
    None,
    _gateways,
)
MODE = Variable(
    "EGRESS_ROUTER_MODE",
    "`init`: network and NAT, then exit; `legacy`: the same, then stay;"
    " `http-proxy`, `dns-proxy`: network only",
    "legacy",
    one_of(*(mode.value for mode in RouterMode)),
)
RULES = RulesVariable(
    "EGRESS_DESTINATION", "redirect rules; required in modes init and legacy", required=False
)
PARENT_INTERFACE = Variable(
    "EGRESS_PARENT_INTERFACE",
    "interface that carries the macvlan when setup creates it; `auto`: the one of the default route",
    "auto",
    _optional_interface,
)
PARENT_NETNS = Variable(
    "EGRESS_PARENT_NETNS",
    "network namespace that holds the parent interface; `auto`: the own one if it does, else /proc/1/ns/net",
    "auto",
    _optional_path,
)
MACVLAN_MODE = Variable(
    "EGRESS_MACVLAN_MODE",
    "`bridge`, `private`, `vepa`, `passthru`",
    "bridge",
    one_of("bridge", "private", "vepa", "passthru"),
)
CLUSTER_CIDRS = Variable(
    "EGRESS_CLUSTER_CIDRS",
    "extra networks that stay on the pod's first interface, separated by commas",
    "",
    _networks,
)
NAT_BACKEND = Variable(
    "EGRESS_NAT_BACKEND",
    "`auto`: nftables, iptables where the kernel has no nf_tables; `nftables`; `iptables`",
    "auto",
    one_of("auto", "nftables", "iptables"),
)
CLAIM_TIMEOUT = Variable(
    "EGRESS_CLAIM_TIMEOUT", "seconds to wait for another owner of the source address to go", "30", seconds
)
DEBUG = Variable("EGRESS_ROUTER_DEBUG", "any value: say every step and every rule", "", non_empty)

VARIABLES = (
    SOURCE,
    GATEWAY,
    MODE,
    RULES,
    common.INTERFACE,
    PARENT_INTERFACE,
    PARENT_NETNS,
    MACVLAN_MODE,
    CLUSTER_CIDRS,
    NAT_BACKEND,
    CLAIM_TIMEOUT,
    DEBUG,
    *common.RUNTIME_VARIABLES,
)


@dataclass(frozen=True, slots=True)
class SetupSettings:
    """What `setup` is told by its environment; `destinations` is set in the modes that redirect."""

    mode: RouterMode
    sources: tuple[Source, ...]
    destinations: RulesSource | None
    interface: str
    parent_interface: str | None
    parent_netns: Path | None
    macvlan_mode: str
    cluster_cidrs: tuple[IPNetwork, ...]
    nat_backend: str
    claim_timeout: float
    debug: bool
    runtime: common.RuntimeSettings


def read_setup(environ: Mapping[str, str]) -> SetupSettings:
    """Read the environment of `setup`.

    Raises:
        ConfigError: with everything that is missing or wrong.
    """
    environment = Environment(environ)
    mode_text = environment.read(MODE)
    addresses = environment.read(SOURCE)
    gateways = environment.read(GATEWAY)
    destinations = environment.read_rules(RULES)
    interface = environment.read(Variable(common.INTERFACE.name, "", common.INTERFACE.default, _interface))
    parent_interface = environment.read(PARENT_INTERFACE)
    parent_netns = environment.read(PARENT_NETNS)
    macvlan_mode = environment.read(MACVLAN_MODE)
    cluster_cidrs = environment.read(CLUSTER_CIDRS)
    nat_backend = environment.read(NAT_BACKEND)
    claim_timeout = environment.read(CLAIM_TIMEOUT)
    runtime = common.read_runtime(environment)
    sources = _sources(environment, addresses or (), gateways or ()) if addresses and gateways else ()
    _require_destinations(environment, mode_text, environ)

    def complete() -> SetupSettings:
        mode = RouterMode(required(mode_text))
        return SetupSettings(
            mode=mode,
            sources=sources,
            destinations=destinations if mode.redirects else None,
            interface=required(interface),
            parent_interface=parent_interface,
            parent_netns=parent_netns,
            macvlan_mode=required(macvlan_mode),
            cluster_cidrs=required(cluster_cidrs),
            nat_backend=required(nat_backend),
            claim_timeout=required(claim_timeout),
            debug=non_empty(environ.get(DEBUG.name, "")),
            runtime=required(runtime),
        )

    return environment.finish(complete)


def _require_destinations(environment: Environment, mode: str | None, environ: Mapping[str, str]) -> None:
    given = any(environ.get(name, "").strip() for name in (RULES.name, RULES.file_name))
    if mode is not None and RouterMode(mode).redirects and not given:
        reason = (
            f"is not set, nor is {RULES.file_name} (EGRESS_DESTINATION unspecified; mode {mode} needs it)"
        )
        environment.reject(Problem(RULES.name, None, None, reason))


def _sources(
    environment: Environment, addresses: tuple[tuple[IPAddress, int], ...], gateways: tuple[IPAddress, ...]
) -> tuple[Source, ...]:
    """Pair each address with the gateway of its family, and report what does not fit together."""
    by_version = {gateway.version: gateway for gateway in gateways}
    sources = []
    for address, prefix in addresses:
        gateway = by_version.pop(address.version, None)
        if gateway is None:
            reason = (
                f"has no IPv{address.version} gateway, but EGRESS_SOURCE has an IPv{address.version} address"
            )
            environment.reject(Problem(GATEWAY.name, None, None, reason))
            continue
        source = Source(address, prefix, gateway)
        problem = _misfit(source)
        if problem is not None:
            environment.reject(Problem(GATEWAY.name, None, str(gateway), problem))
        sources.append(source)
    for gateway in by_version.values():
        reason = f"is an IPv{gateway.version} gateway, but EGRESS_SOURCE has no address of that family"
        environment.reject(Problem(GATEWAY.name, None, str(gateway), reason))
    return tuple(sources)


def _misfit(source: Source) -> str | None:
    if source.gateway == source.address:
        return "is EGRESS_SOURCE itself; expected the next hop"
    link_local = isinstance(source.gateway, IPv6Address) and source.gateway.is_link_local
    if source.knows_subnet and not link_local:
        subnet = parse_network(f"{source.address}/{source.prefix}")
        if source.gateway not in subnet:
            return f"is not on the subnet {subnet} of EGRESS_SOURCE (leave its length out if that is meant)"
    if isinstance(source.address, IPv4Address) and source.prefix < 31:
        subnet = parse_network(f"{source.address}/{source.prefix}")
        if source.address in {subnet.network_address, subnet.broadcast_address}:
            return f"cannot serve {source.address}, which is the network or broadcast address of {subnet}"
    return None
