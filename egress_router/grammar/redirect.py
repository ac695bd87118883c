"""The grammar of EGRESS_DESTINATION: which local port goes where."""

from __future__ import annotations

import enum
import functools
from array import array
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from egress_router.grammar.address import (
    AddressError,
    IPAddress,
    IPNetwork,
    parse_address,
    parse_port,
)
from egress_router.grammar.lines import Line, Problems, rule_lines
from egress_router.grammar.locality import Locality, locality

if TYPE_CHECKING:
    from collections.abc import Sequence


class Protocol(enum.Enum):
    """Transport protocols that can be redirected by port."""

    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"


_PROTOCOLS = {protocol.value: protocol for protocol in Protocol}
_PORTS = 65536
_NOWHERE = {Locality.LOOPBACK, Locality.UNSPECIFIED, Locality.MULTICAST, Locality.BROADCAST}
_FORMS = "PORT PROTOCOL ADDRESS [REMOTE_PORT], FIRST-LAST PROTOCOL ADDRESS, or a fallback ADDRESS"


@dataclass(frozen=True, slots=True)
class Redirect:
    """Local ports `first` to `last` go to `target`: to `target_port`, or to the same port (None)."""

    protocol: Protocol
    first: int
    last: int
    target: IPAddress
    target_port: int | None

    @property
    def is_range(self) -> bool:
        """Whether it covers more than one port."""
        return self.first != self.last


@dataclass(frozen=True, slots=True)
class Redirects:
    """All redirects, and where every other port goes, for each family; None: it is rejected."""

    rules: tuple[Redirect, ...]
    fallback_v4: IPv4Address | None
    fallback_v6: IPv6Address | None


@dataclass(frozen=True, slots=True)
class Router:
    """What of a router decides whether a line can work in it.

    `addresses` are those of EGRESS_SOURCE; None: they are not known, and no line fails by them.
    `admin_port` is never redirected; 0: there is none, or it is not known. `cluster` are the networks of
    EGRESS_CLUSTER_CIDRS, which the pod reaches by its first interface.
    """

    addresses: frozenset[IPAddress] | None = None
    admin_port: int = 0
    cluster: tuple[IPNetwork, ...] = ()

    def misfit(self, target: IPAddress) -> str | None:
        """Say why this router can send nothing to `target`; None where it can."""
        for network in self.cluster:
            if network.version == target.version and target in network:
                return (
                    f"{target} is in {network} of EGRESS_CLUSTER_CIDRS, and would leave past EGRESS_SOURCE;"
                    " expected the address of an external server"
                )
        if self.addresses is None:
            return None
        if all(address.version != target.version for address in self.addresses):
            return f"EGRESS_SOURCE has no IPv{target.version} address, with which {target} could be reached"
        if target in self.addresses:
            return f"{target} is EGRESS_SOURCE itself; expected the address of an external server"
        return None

    def shadowed(self, rule: Redirect) -> str | None:
        """Say why part of a rule would never be used; None where all of it can be."""
        if rule.protocol is Protocol.TCP and rule.first <= self.admin_port <= rule.last:
            return (
                f"tcp port {self.admin_port} is the administration port, which is never redirected;"
                " choose another port, or set EGRESS_ADMIN_PORT to another one, or to 0 to turn it off"
            )
        return None


_ANY_ROUTER = Router()


def parse(source: str, text: str, router: Router = _ANY_ROUTER) -> Redirects:
    """Read the lines of EGRESS_DESTINATION, which shall work in `router`; `source` names them in errors.

    Raises:
        ConfigError: with every error of the text.
    """
    problems = Problems(source)
    rules: list[Redirect] = []
    singles: list[Line] = []
    last_rule = 0
    ports = _Ports()
    for line in rule_lines(text):
        words = line.text.split()
        if len(words) == 1:
            singles.append(line)
            continue
        last_rule = line.number
        try:
            rule = _rule(words)
        except ValueError as error:
            problems.add(line, str(error))
            continue
        rules.append(rule)
        for fault in (router.misfit(rule.target), router.shadowed(rule), ports.take(rule, line.number)):
            if fault is not None:
                problems.add(line, fault)
    fallback_v4, fallback_v6 = _fallbacks(singles, last_rule, router, problems)
    if not singles and not last_rule:
        problems.add(None, "holds no rule; expected lines of the form " + _FORMS)
    problems.raise_if_any()
    return Redirects(tuple(rules), fallback_v4, fallback_v6)


def _rule(words: Sequence[str]) -> Redirect:
    if len(words) not in {3, 4}:
        raise ValueError(f"expected {_FORMS}")
    protocol = _PROTOCOLS.get(words[1].lower())
    if protocol is None:
        raise ValueError(f"unknown protocol {words[1]!r} (tcp, udp or sctp)")
    first_text, dash, last_text = words[0].partition("-")
    first = parse_port(first_text)
    last = parse_port(last_text) if dash else first
    if last < first:
        raise ValueError(f"the range {words[0]!r} ends before it begins")
    if dash and len(words) == 4:
        raise ValueError("a range goes to the same ports; leave out the remote port")
    target_port = parse_port(words[3]) if len(words) == 4 else None
    return Redirect(protocol, first, last, _target(words[2]), target_port)


# Many lines name few destinations: one object each keeps 30,000 lines small.
@functools.lru_cache(maxsize=4096)
def _target(text: str) -> IPAddress:
    try:
        address = parse_address(text)
    except AddressError as error:
        raise ValueError(f"{error} (redirect rules need an IPv4 or IPv6 address)") from None
    kind = locality(address)
    # IPv4 link-local stays allowed: a cloud serves metadata there, and Linux forwards it. IPv6 link-local
    # addresses mean nothing without an interface.
    if kind in _NOWHERE or (isinstance(address, IPv6Address) and address.is_link_local):
        raise ValueError(f"{text!r} is not the address of an external server ({kind.value})")
    return address


class _Ports:
    """Which line has which local port, by protocol and family.

    One table of all ports each, so that neither lines nor ranges are searched one by one.
    """

    def __init__(self) -> None:
        self._tables: dict[tuple[Protocol, int], tuple[bytearray, array[int]]] = {}

    def take(self, rule: Redirect, number: int) -> str | None:
        """Note that line `number` has the rule's ports; say so where another line has one of them."""
        key = (rule.protocol, rule.target.version)
        if key not in self._tables:
            self._tables[key] = bytearray(_PORTS), array("L", [0]) * _PORTS
        taken, owners = self._tables[key]
        port = taken.find(1, rule.first, rule.last + 1)
        if port >= 0:
            return (
                f"localport {port} is already used for {rule.protocol.value} on line {owners[port]},"
                " must be unique for each protocol and family"
            )
        count = rule.last - rule.first + 1
        taken[rule.first : rule.last + 1] = b"\1" * count
        owners[rule.first : rule.last + 1] = array("L", [number]) * count
        return None


def _fallbacks(
    singles: Sequence[Line], last_rule: int, router: Router, problems: Problems
) -> tuple[IPv4Address | None, IPv6Address | None]:
    """Return the fallback of each family, out of the lines of one word; none may stand before a rule."""
    fallback_v4: IPv4Address | None = None
    fallback_v6: IPv6Address | None = None
    for line in reversed(singles):
        try:
            address = _target(line.text)
        except ValueError as error:
            problems.add(line, f"{error}; expected {_FORMS}")
            continue
        misfit = router.misfit(address)
        if misfit is not None:
            problems.add(line, misfit)
        taken = fallback_v4 if isinstance(address, IPv4Address) else fallback_v6
        if line.number < last_rule or taken is not None:
            problems.add(line, "fallback IP must be the last line (one for each family)")
        elif isinstance(address, IPv4Address):
            fallback_v4 = address
        else:
            fallback_v6 = address
    return fallback_v4, fallback_v6


def printed(redirects: Redirects) -> str:
    """Write redirects in the grammar; reading the text gives an equal value."""
    lines = [_printed_rule(rule) for rule in redirects.rules]
    lines += [
        str(address) for address in (redirects.fallback_v4, redirects.fallback_v6) if address is not None
    ]
    return "".join(f"{line}\n" for line in lines)


def _printed_rule(rule: Redirect) -> str:
    ports = f"{rule.first}-{rule.last}" if rule.is_range else str(rule.first)
    remote = "" if rule.target_port is None else f" {rule.target_port}"
    return f"{ports} {rule.protocol.value} {rule.target}{remote}"
