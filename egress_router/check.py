"""`egress-router check`: the parsed rules as a table, or every error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.grammar import acl, forward, redirect
from egress_router.grammar.address import printed
from egress_router.settings import dns_proxy, http_proxy, setup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Rows = list[tuple[str, ...]]


def _redirect_rows(source: str, text: str) -> Rows:
    redirects = redirect.parse(source, text)
    rows: Rows = [("LOCAL PORT", "PROTOCOL", "DESTINATION")]
    for rule in redirects.rules:
        ports = f"{rule.first}-{rule.last}" if rule.is_range else str(rule.first)
        target = (
            printed(rule.target) if rule.is_range else printed(rule.target, rule.target_port or rule.first)
        )
        rows.append((ports, rule.protocol.value, f"{target}, same port" if rule.is_range else target))
    for version, fallback in ((4, redirects.fallback_v4), (6, redirects.fallback_v6)):
        where = "rejected" if fallback is None else f"{fallback}, same port"
        rows.append((f"other, IPv{version}", "any", where))
    return rows


def _access_rows(source: str, text: str) -> Rows:
    rules = acl.parse(source, text).rules
    rows: Rows = [("LINE", "VERDICT", "DESTINATION", "PORT")]
    for rule in rules:
        port = "any" if rule.port is None else str(rule.port)
        rows.append((str(rule.line), "allow" if rule.allows else "deny", _subject(rule.subject), port))
    if not isinstance(rules[-1].subject, acl.Everything):
        rows.append(("-", "deny", "everything else", "any"))
    return rows


def _subject(subject: acl.Subject) -> str:
    match subject:
        case acl.Everything():
            return "every remote destination"
        case acl.Domain(name, below):
            return f"{name} and all names below it" if below else name
        case _:
            return str(subject.network_address) if subject.num_addresses == 1 else str(subject)


def _forward_rows(source: str, text: str) -> Rows:
    rows: Rows = [("LOCAL PORT", "DESTINATION")]
    rows += [
        (str(line.port), printed(line.target, line.target_port)) for line in forward.parse(source, text).lines
    ]
    return rows


_KINDS: dict[str, tuple[str, Callable[[str, str], Rows]]] = {
    "redirect": (setup.RULES.name, _redirect_rows),
    "http-proxy": (http_proxy.RULES.name, _access_rows),
    "dns-proxy": (dns_proxy.RULES.name, _forward_rows),
}
KINDS = tuple(_KINDS)


def checked(kind: str, text: str) -> str:
    """Return the rules of `text` as a table.

    Raises:
        ConfigError: with every error of the text, named as the kind's variable names them.
    """
    source, rows = _KINDS[kind]
    return table(rows(source, text))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align cells in columns, two blanks apart; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)
