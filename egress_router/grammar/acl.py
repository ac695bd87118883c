"""The grammar of EGRESS_HTTP_PROXY_DESTINATION: an ordered list of what is allowed and what is denied."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from egress_router.grammar.address import (
    IPNetwork,
    parse_address,
    parse_host,
    parse_name,
    parse_network,
    parse_port,
    split_port,
)
from egress_router.grammar.lines import Line, Problems, rule_lines

_FORMS = (
    "NAME, *.DOMAIN, ADDRESS or ADDRESS/LENGTH, each with `!` before it to deny and `:PORT` after it, or *"
)


@dataclass(frozen=True, slots=True)
class Everything:
    """Every remote destination."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A name in its compared form; with all names below it where `below` is set."""

    name: str
    below: bool


Subject = Everything | Domain | IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Rule:
    """One line: what it speaks of, on which port (None: any), and whether it allows or denies."""

    line: int
    text: str
    allows: bool
    subject: Subject
    port: int | None


@dataclass(frozen=True, slots=True)
class AccessList:
    """The rules in their order: the first that matches decides, and what none matches is denied."""

    rules: tuple[Rule, ...]


def parse(source: str, text: str) -> AccessList:
    """Read an allow/deny list; `source` names it in errors.

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
    if not text or any(map(str.isspace, text)):
        raise ValueError(f"expected {_FORMS}")
    if "://" in text:
        raise ValueError("expected a host, not a URL")
    host_text, port_text = _split(text)
    port = None if port_text is None else parse_port(port_text)
    subject = _subject(host_text)
    if isinstance(subject, Everything) and (denies or port is not None):
        raise ValueError("`*` stands alone: what nothing allows is denied anyway, and it covers every port")
    # The text goes into answers and logs: without white space behind the mark it holds no controls.
    return Rule(line.number, f"!{text}" if denies else text, not denies, subject, port)


def _split(text: str) -> tuple[str, str | None]:
    """Split off the port; in `[2001:db8::]/32:443` it stands behind the length."""
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


def printed(access_list: AccessList) -> str:
    """Write the rules in the grammar; reading the text gives an equal list but for texts and line numbers."""
    return "".join(f"{_printed_rule(rule)}\n" for rule in access_list.rules)


def _printed_rule(rule: Rule) -> str:
    mark = "" if rule.allows else "!"
    port = "" if rule.port is None else f":{rule.port}"
    match rule.subject:
        case Everything():
            return "*"
        case Domain(name, below):
            return f"{mark}{'*.' if below else ''}{name}{port}"
        case IPv4Network():
            return f"{mark}{rule.subject}{port}"
        case IPv6Network():
            address, _, length = str(rule.subject).partition("/")
            return f"{mark}[{address}]/{length}{port}"
