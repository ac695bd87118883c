"""The grammar of EGRESS_HTTP_PROXY_DESTINATION: an ordered list of what is allowed and what is denied."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING

from egress_router.grammar.address import (
    IPAddress,
    IPNetwork,
    parse_address,
    parse_host,
    parse_name,
    parse_network,
    parse_port,
    split_port,
)
from egress_router.grammar.leaving import Leaving, misplaced, printed_leaving, split_leaving
from egress_router.grammar.lines import Line, Problems, rule_lines

if TYPE_CHECKING:
    from collections.abc import Collection

_FORMS = (
    "NAME, *.DOMAIN, ADDRESS or ADDRESS/LENGTH, each with `!` before it to deny and `:PORT` after it, or *;"
    " what allows may end in `from SOURCE`"
)


@dataclass(frozen=True, slots=True)
class Everything:
    """Every remote destination."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A name in the form that is compared; `below`: with all names below it."""

    name: str
    below: bool


Subject = Everything | Domain | IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Rule:
    """One line: which hosts it is about, on which port (None: any), and whether it allows or denies.

    `leaving` is the source address of the connections that it allows.
    """

    line: int
    text: str
    allows: bool
    subject: Subject
    port: int | None
    leaving: Leaving = None


@dataclass(frozen=True, slots=True)
class AccessList:
    """The rules in their order: the first that matches decides, and what none matches is denied."""

    rules: tuple[Rule, ...]


def parse(source: str, text: str, sources: Collection[IPAddress] | None = None) -> AccessList:
    """Read an allow/deny list; `source` names it in errors.

    `sources` are the addresses of EGRESS_SOURCE; None: they are not known.

    Raises:
        ConfigError: with every error of the text.
    """
    problems = Problems(source)
    rules: list[Rule] = []
    lines = list(rule_lines(text))
    for line in lines:
        try:
            rule = _rule(line)
        except ValueError as error:
            problems.add(line, str(error))
            continue
        misfit = misplaced(rule.leaving, sources, _address_of(rule.subject))
        if misfit is not None:
            problems.add(line, misfit)
        if isinstance(rule.subject, Everything) and line is not lines[-1]:
            problems.add(line, "Wildcard must be last rule, if present")
        rules.append(rule)
    if not lines:
        problems.add(None, f"holds no rule; expected lines of the form {_FORMS}")
    problems.raise_if_any()
    return AccessList(tuple(rules))


def _rule(line: Line) -> Rule:
    denies = line.text.startswith("!")
    text = line.text[1:].strip() if denies else line.text
    words, leaving = split_leaving(text)
    if len(words) != 1:
        raise ValueError(f"expected {_FORMS}")
    if denies and leaving is not None:
        raise ValueError("what is denied leaves with no address; take `from` out")
    text = words[0]
    if "://" in text:
        raise ValueError("expected a host, not a URL")
    host_text, port_text = _split(text)
    port = None if port_text is None else parse_port(port_text)
    subject = _subject(host_text)
    if isinstance(subject, Everything) and (denies or port is not None):
        raise ValueError("`*` stands alone: what nothing allows is denied anyway, and it covers every port")
    # The text goes into answers and logs: its only white space is single spaces, so no control characters.
    shown = f"{'!' if denies else ''}{text}{printed_leaving(leaving)}"
    return Rule(line.number, shown, not denies, subject, port, leaving)


def _address_of(subject: Subject) -> IPAddress | None:
    return subject.network_address if isinstance(subject, IPv4Network | IPv6Network) else None


def _split(text: str) -> tuple[str, str | None]:
    """Split off the port; in `[2001:db8::]/32:443` it comes after the length."""
    if not text.startswith("["):
        return split_port(text)
    address, bracket, rest = text.partition("]")
    length, colon, port = rest.partition(":")
    return address + bracket + length, port if colon else None


def _subject(text: str) -> Subject:
    if text == "*":
        return Everything()
    if text.startswith("*."):
        return Domain(parse_name(text[2:]), below=True)
    if "*" in text:
        raise ValueError(f"`*` stands alone or first, as in *.example.com; {text!r} is neither")
    if "/" in text:
        return parse_network(_unbracketed(text))
    host = parse_host(text)
    return Domain(host, below=False) if isinstance(host, str) else _single(str(host))


def _single(text: str) -> IPNetwork:
    return ip_network(parse_address(text))


def _unbracketed(text: str) -> str:
    """Take the brackets out of `[2001:db8::]/32`, and out of `[2001:db8::/32]`."""
    if text.startswith("[") and text.endswith("]"):
        return text[1:-1]
    if text.startswith("["):
        address, bracket, length = text[1:].partition("]")
        if bracket and ":" in address:
            return address + length
    return text


def printed_access_list(access_list: AccessList) -> str:
    """Write the rules in the grammar; read again, only their texts and line numbers may differ."""
    return "".join(f"{_printed_rule(rule)}\n" for rule in access_list.rules)


def _printed_rule(rule: Rule) -> str:
    mark, leaving = "" if rule.allows else "!", printed_leaving(rule.leaving)
    port = "" if rule.port is None else f":{rule.port}"
    match rule.subject:
        case Everything():
            return f"*{leaving}"
        case Domain(name, below):
            return f"{mark}{'*.' if below else ''}{name}{port}{leaving}"
        case IPv4Network():
            return f"{mark}{rule.subject}{port}{leaving}"
        case IPv6Network():
            address, _, length = str(rule.subject).partition("/")
            return f"{mark}[{address}]/{length}{port}{leaving}"
