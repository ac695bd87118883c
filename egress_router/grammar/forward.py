"""The grammar of EGRESS_DNS_PROXY_DESTINATION: one listening port a line, and where its connections go."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from egress_router.grammar.address import AddressError, Host, IPAddress, parse_full_host, parse_port
from egress_router.grammar.leaving import Leaving, misplaced, printed_leaving, split_leaving
from egress_router.grammar.lines import Line, Problems, rule_lines
from egress_router.grammar.locality import Locality, locality

if TYPE_CHECKING:
    from collections.abc import Collection

_NOWHERE = {Locality.UNSPECIFIED, Locality.MULTICAST, Locality.BROADCAST}
_IS_TAKEN = (
    "is the administration port; choose another port, or set EGRESS_ADMIN_PORT to another one, or to 0"
)
_FORMS = "PORT ADDRESS [REMOTE_PORT] or PORT NAME [REMOTE_PORT], and `from SOURCE` where wanted"


@dataclass(frozen=True, slots=True)
class Forward:
    """Connections to local port `port` go to `target_port` of an address or of a name.

    `leaving` is their source address. `line` is the number in the text; a line that only moved is still
    equal.
    """

    port: int
    target: Host
    target_port: int
    leaving: Leaving = None
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Forwards:
    """All lines, in the order of the text; a local port appears once."""

    lines: tuple[Forward, ...]


def parse(
    source: str, text: str, admin_port: int = 0, sources: Collection[IPAddress] | None = None
) -> Forwards:
    """Read the lines of EGRESS_DNS_PROXY_DESTINATION; `source` names them in errors.

    `admin_port` is the administration endpoint's port, which no line may have; 0: there is none.
    `sources` are the addresses of EGRESS_SOURCE; None: they are not known.

    Raises:
        ConfigError: with every error of the text.
    """
    problems = Problems(source)
    found: dict[int, Forward] = {}
    first_seen: dict[int, int] = {}
    lines = list(rule_lines(text))
    for line in lines:
        try:
            forward = _forward(line)
        except ValueError as error:
            problems.add(line, str(error))
            continue
        target = None if isinstance(forward.target, str) else forward.target
        misfit = misplaced(forward.leaving, sources, target)
        if misfit is not None:
            problems.add(line, misfit)
        if forward.port == admin_port:
            problems.add(line, f"port {admin_port} {_IS_TAKEN}")
        seen = first_seen.setdefault(forward.port, line.number)
        if seen != line.number:
            problems.add(
                line, f"Proxy port {forward.port} already used, on line {seen}; each needs a port of its own"
            )
        found.setdefault(forward.port, forward)
    if not lines:
        problems.add(None, f"holds no rule; expected lines of the form {_FORMS}")
    problems.raise_if_any()
    return Forwards(tuple(found.values()))


def _forward(line: Line) -> Forward:
    words, leaving = split_leaving(line.text)
    if len(words) not in {2, 3}:
        raise ValueError(f"expected {_FORMS}")
    port = parse_port(words[0])
    target = _target(words[1])
    target_port = parse_port(words[2]) if len(words) == 3 else port
    return Forward(port, target, target_port, leaving, line.number)


def _target(text: str) -> Host:
    target = parse_full_host(text)
    if isinstance(target, str):
        return target
    kind = locality(target)
    # Loopback is allowed: that is another container of the pod.
    if kind in _NOWHERE or (isinstance(target, IPv6Address) and target.is_link_local):
        raise AddressError(f"{text!r} is not the address of a server ({kind.value})")
    return target


def printed_forwards(forwards: Forwards) -> str:
    """Write forwards in the grammar; reading the text gives an equal value."""
    return "".join(f"{printed_forward(line)}\n" for line in forwards.lines)


def printed_forward(line: Forward) -> str:
    """Write one line."""
    return f"{line.port} {line.target} {line.target_port}{printed_leaving(line.leaving)}"
