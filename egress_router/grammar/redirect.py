"""The grammar of EGRESS_DESTINATION: which local port goes where."""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from egress_router.grammar.address import AddressError, IPAddress, parse_address, parse_port
from egress_router.grammar.lines import Line, Problems, rule_lines

if TYPE_CHECKING:
    from collections.abc import Sequence


class Protocol(enum.Enum):
    """Transport protocols that can be redirected by port."""

    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"


_PROTOCOLS = {protocol.value: protocol for protocol in Protocol}
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


def parse(source: str, text: str) -> Redirects:
    """Read the lines of EGRESS_DESTINATION; `source` names them in errors.

    Raises:
        ConfigError: with every error of the text.
    """
    problems = Problems(source)
    rules: list[Redirect] = []
    singles: list[Line] = []
    last_rule = 0
    seen = _SeenPorts()
    for line in rule_lines(text):
        words = line.text.split()
        if len(words) == 1:
            singles.append(line)
            continue
        last_rule = line.number
        try:
            rule = _rule(words)
            seen.add(rule, line)
            rules.append(rule)
        except ValueError as error:
            problems.add(line, str(error))
    fallback_v4, fallback_v6 = _fallbacks(singles, last_rule, problems)
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
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise ValueError(f"{text!r} is not the address of an external server")
    return address


class _SeenPorts:
    """Which local ports are taken, by protocol and family; ranges are few and compared one by one."""

    def __init__(self) -> None:
        self._single: dict[tuple[Protocol, int, int], int] = {}
        self._ranges: list[tuple[Redirect, int]] = []

    def add(self, rule: Redirect, line: Line) -> None:
        """Note the rule's ports; ValueError where one of them is taken."""
        family = rule.target.version
        for other, number in self._ranges:
            same = other.protocol is rule.protocol and other.target.version == family
            if same and rule.first <= other.last and other.first <= rule.last:
                raise self._taken(max(rule.first, other.first), rule.protocol, number)
        if rule.is_range:
            for (protocol, version, port), number in self._single.items():
                if protocol is rule.protocol and version == family and rule.first <= port <= rule.last:
                    raise self._taken(port, rule.protocol, number)
            self._ranges.append((rule, line.number))
            return
        key = (rule.protocol, family, rule.first)
        number = self._single.setdefault(key, line.number)
        if number != line.number:
            raise self._taken(rule.first, rule.protocol, number)

    @staticmethod
    def _taken(port: int, protocol: Protocol, number: int) -> ValueError:
        return ValueError(
            f"localport {port} is already used for {protocol.value} on line {number},"
            " must be unique for each protocol and family"
        )


def _fallbacks(
    singles: Sequence[Line], last_rule: int, problems: Problems
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
