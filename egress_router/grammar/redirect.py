"""The grammar of EGRESS_DESTINATION: which local port goes where."""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from egress_router.grammar.address import (
    AddressError,
    Host,
    IPAddress,
    IPNetwork,
    parse_full_host,
    parse_port,
)
from egress_router.grammar.leaving import Leaving, misplaced, printed_leaving, split_leaving
from egress_router.grammar.lines import Line, Problems, rule_lines
from egress_router.grammar.local_ports import LocalPorts
from egress_router.grammar.locality import Locality, locality

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Protocol(enum.Enum):
    """Transport protocols that can be redirected by port."""

    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"


_PROTOCOLS = {protocol.value: protocol for protocol in Protocol}
_NEEDS_LEGACY = (
    "a name needs EGRESS_ROUTER_MODE=legacy, because somebody has to follow it; give an address,"
    " or change the mode"
)
_NOWHERE = {Locality.LOOPBACK, Locality.UNSPECIFIED, Locality.MULTICAST, Locality.BROADCAST}
_FORMS = (
    "PORT PROTOCOL TARGET [REMOTE_PORT], FIRST-LAST PROTOCOL TARGET, or a fallback ADDRESS"
    " (TARGET: an address or a full name; `from SOURCE` may end a line)"
)


@dataclass(frozen=True, slots=True)
class Redirect:
    """Local ports `first` to `last` go to `target`: to `target_port`, or to the same port (None).

    `leaving` is the source address. `line` is the number in the text; a line that only moved is still equal.
    """

    protocol: Protocol
    first: int
    last: int
    target: IPAddress
    target_port: int | None
    leaving: Leaving = None
    line: int = field(default=0, compare=False)

    @property
    def is_range(self) -> bool:
        """Whether it covers more than one port."""
        return self.first != self.last


@dataclass(frozen=True, slots=True)
class NamedRedirect:
    """As `Redirect`, but to the addresses that `name` has at the time; the router follows them."""

    protocol: Protocol
    first: int
    last: int
    name: str
    target_port: int | None
    leaving: Leaving = None
    line: int = field(default=0, compare=False)

    @property
    def is_range(self) -> bool:
        """Whether it covers more than one port."""
        return self.first != self.last


@dataclass(frozen=True, slots=True)
class Redirects:
    """All redirects, to addresses and to names, and where every other port goes (None: it is rejected)."""

    rules: tuple[Redirect, ...]
    fallback_v4: IPv4Address | None
    fallback_v6: IPv6Address | None
    names: tuple[NamedRedirect, ...] = ()
    fallback_v4_leaving: Leaving = None
    fallback_v6_leaving: Leaving = None


@dataclass(frozen=True, slots=True)
class Router:
    """What decides whether a line can work in a router.

    `addresses` are those of EGRESS_SOURCE; None: they are not known, and not checked. `admin_port` is never
    redirected; 0: there is none, or it is not known. `cluster` are the networks of EGRESS_CLUSTER_CIDRS,
    which the pod reaches by its first interface. `follows_names`: it keeps running, and follows the addresses
    of names.
    """

    addresses: frozenset[IPAddress] | None = None
    admin_port: int = 0
    cluster: tuple[IPNetwork, ...] = ()
    follows_names: bool = True

    def misfit(self, target: Host) -> str | None:
        """Say why this router cannot send to `target`; None if it can."""
        if isinstance(target, str):
            return None if self.follows_names else _NEEDS_LEGACY
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

    def misplaced(self, leaving: Leaving, target: Host) -> str | None:
        """Say why connections to `target` cannot leave with this address; None if they can."""
        return misplaced(leaving, self.addresses, None if isinstance(target, str) else target)

    def shadowed(self, rule: Redirect | NamedRedirect) -> str | None:
        """Say why part of a rule would never be used; None if all of it can be."""
        if rule.protocol is Protocol.TCP and rule.first <= self.admin_port <= rule.last:
            return (
                f"tcp port {self.admin_port} is the administration port, which is never redirected;"
                " choose another port, or set EGRESS_ADMIN_PORT to another one, or to 0 to turn it off"
            )
        return None


_ANY_ROUTER = Router()


def parse(source: str, text: str, router: Router = _ANY_ROUTER) -> Redirects:
    """Read the lines of EGRESS_DESTINATION, which must work in `router`; `source` names them in errors.

    Raises:
        ConfigError: with every error of the text.
    """
    problems = Problems(source)
    rules: list[Redirect] = []
    names: list[NamedRedirect] = []
    singles: list[_Single] = []
    last_rule = 0
    ports = LocalPorts()
    lines = list(rule_lines(text))
    for line in lines:
        try:
            words, leaving = split_leaving(line.text)
            if len(words) == 1:
                singles.append(_Single(line, words[0], leaving))
                continue
            last_rule = line.number
            rule = _rule(words, leaving, line.number)
        except ValueError as error:
            problems.add(line, str(error))
            continue
        if isinstance(rule, Redirect):
            rules.append(rule)
        else:
            names.append(rule)
        for fault in _faults(rule, leaving, router, ports):
            problems.add(line, fault)
    fallbacks = _fallbacks(singles, last_rule, router, problems)
    if not lines:
        problems.add(None, "holds no rule; expected lines of the form " + _FORMS)
    problems.raise_if_any()
    (fallback_v4, leaving_v4), (fallback_v6, leaving_v6) = fallbacks
    return Redirects(tuple(rules), fallback_v4, fallback_v6, tuple(names), leaving_v4, leaving_v6)


def _faults(
    rule: Redirect | NamedRedirect, leaving: Leaving, router: Router, ports: LocalPorts
) -> Iterator[str]:
    """Yield why a line cannot work in this router, or beside the lines whose ports are known."""
    target: Host = rule.target if isinstance(rule, Redirect) else rule.name
    faults = (router.misfit(target), router.misplaced(leaving, target), router.shadowed(rule))
    yield from (fault for fault in (*faults, _taken(rule, ports)) if fault is not None)


def _rule(words: Sequence[str], leaving: Leaving, number: int) -> Redirect | NamedRedirect:
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
    target = _target(words[2])
    if isinstance(target, str):
        return NamedRedirect(protocol, first, last, target, target_port, leaving, number)
    return Redirect(protocol, first, last, target, target_port, leaving, number)


# Many lines name few destinations: one object for each saves memory with 30,000 lines.
@functools.lru_cache(maxsize=4096)
def _target(text: str) -> Host:
    address = parse_full_host(text)
    if isinstance(address, str):
        return address
    kind = locality(address)
    # IPv4 link-local is allowed: a cloud serves metadata there, and Linux forwards it. IPv6 link-local
    # addresses mean nothing without an interface.
    if kind in _NOWHERE or (isinstance(address, IPv6Address) and address.is_link_local):
        raise ValueError(f"{text!r} is not the address of an external server ({kind.value})")
    return address


def _taken(rule: Redirect | NamedRedirect, ports: LocalPorts) -> str | None:
    """Note the rule's local ports; return an error if another line has one. A name may have both families."""
    protocol, first, last, line = rule.protocol.value, rule.first, rule.last, rule.line
    if isinstance(rule, Redirect):
        return ports.take(protocol, rule.target.version, first, last, line)
    in_v4 = ports.take(protocol, 4, first, last, line)
    in_v6 = ports.take(protocol, 6, first, last, line)
    return in_v4 or in_v6


@dataclass(frozen=True, slots=True)
class _Single:
    """A line of one word, which is a fallback, and the source address of its connections."""

    line: Line
    word: str
    leaving: Leaving


def _fallbacks(
    singles: Sequence[_Single], last_rule: int, router: Router, problems: Problems
) -> tuple[tuple[IPv4Address | None, Leaving], tuple[IPv6Address | None, Leaving]]:
    """Return the fallback of each family, out of the lines of one word; none may come before a rule."""
    v4: tuple[IPv4Address | None, Leaving] = None, None
    v6: tuple[IPv6Address | None, Leaving] = None, None
    for single in reversed(singles):
        line = single.line
        try:
            address = _fallback(single.word)
        except ValueError as error:
            problems.add(line, f"{error}; expected {_FORMS}")
            continue
        for fault in (router.misfit(address), router.misplaced(single.leaving, address)):
            if fault is not None:
                problems.add(line, fault)
        taken = v4[0] if isinstance(address, IPv4Address) else v6[0]
        if line.number < last_rule or taken is not None:
            problems.add(line, "fallback IP must be the last line (one for each family)")
        elif isinstance(address, IPv4Address):
            v4 = address, single.leaving
        else:
            v6 = address, single.leaving
    return v4, v6


def _fallback(text: str) -> IPAddress:
    target = _target(text)
    if isinstance(target, str):
        raise AddressError(f"{text!r} is not an IP address, as a fallback must be")
    return target


def printed_redirects(redirects: Redirects) -> str:
    """Write redirects in the grammar; reading the text gives an equal value."""
    rules: list[Redirect | NamedRedirect] = [*redirects.rules, *redirects.names]
    lines = [printed_rule(rule) for rule in sorted(rules, key=lambda rule: rule.line)]
    fallbacks = (
        (redirects.fallback_v4, redirects.fallback_v4_leaving),
        (redirects.fallback_v6, redirects.fallback_v6_leaving),
    )
    lines += [f"{address}{printed_leaving(leaving)}" for address, leaving in fallbacks if address is not None]
    return "".join(f"{line}\n" for line in lines)


def printed_rule(rule: Redirect | NamedRedirect) -> str:
    """Write one line, without its end."""
    ports = f"{rule.first}-{rule.last}" if rule.is_range else str(rule.first)
    remote = "" if rule.target_port is None else f" {rule.target_port}"
    target = rule.target if isinstance(rule, Redirect) else rule.name
    return f"{ports} {rule.protocol.value} {target}{remote}{printed_leaving(rule.leaving)}"
