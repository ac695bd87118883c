"""The grammar of EGRESS_DNS_PROXY_DESTINATION: one listening port a line, and where its connections go."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address

from egress_router.grammar.address import AddressError, Host, parse_host, parse_port
from egress_router.grammar.lines import Line, Problems, rule_lines
from egress_router.grammar.locality import Locality, locality

_NOWHERE = {Locality.UNSPECIFIED, Locality.MULTICAST, Locality.BROADCAST}
_IS_TAKEN = (
    "is the administration port; choose another port, or set EGRESS_ADMIN_PORT to another one, or to 0"
)
_FORMS = "PORT ADDRESS [REMOTE_PORT] or PORT NAME [REMOTE_PORT]"


@dataclass(frozen=True, slots=True)
class Forward:
    """Connections to local port `port` go to `target_port` of an address or of a name.

    `line` is its number in the text; a line that only moved is the same.
    """

    port: int
    target: Host
    target_port: int
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Forwards:
    """All lines, in the order of the text; a local port appears once."""

    lines: tuple[Forward, ...]


def parse(source: str, text: str, admin_port: int = 0) -> Forwards:
    """Read the lines of EGRESS_DNS_PROXY_DESTINATION; `source` names them in errors.

    `admin_port` is the port that no line may have, because the administration endpoint has it; 0: none.

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
    words = line.text.split()
    if len(words) not in {2, 3}:
        raise ValueError(f"expected {_FORMS}")
    port = parse_port(words[0])
    target = _target(words[1])
    return Forward(port, target, parse_port(words[2]) if len(words) == 3 else port, line.number)


def _target(text: str) -> Host:
    target = parse_host(text)
    if isinstance(target, str):
        # A short name would be completed by the search list of whatever pod reads it.
        if "." not in target:
            raise AddressError(f"the name {text!r} has no dot; expected a full name such as db.example.com")
        return target
    kind = locality(target)
    # Loopback stays allowed: that is another container of the pod.
    if kind in _NOWHERE or (isinstance(target, IPv6Address) and target.is_link_local):
        raise AddressError(f"{text!r} is not the address of a server ({kind.value})")
    return target


def printed(forwards: Forwards) -> str:
    """Write forwards in the grammar; reading the text gives an equal value."""
    return "".join(f"{line.port} {line.target} {line.target_port}\n" for line in forwards.lines)
