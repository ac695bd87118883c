"""The commands of the program, their rules as tables, and the lines of rules that can never act."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.check.report import Report, Rows, Table
from egress_router.grammar import acl, forward, lint, redirect
from egress_router.grammar.address import printed
from egress_router.grammar.kinds import KINDS
from egress_router.grammar.leaving import Leaving, Spread
from egress_router.settings import common, dns_proxy, http_proxy, setup
from egress_router.settings.policy import policy_parser
from egress_router.settings.subnet import SOURCE
from egress_router.settings.variables import RulesVariable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from egress_router.errors import Problem
    from egress_router.grammar.egress_policy import EgressPolicy
    from egress_router.settings.variables import Variable

_FROM = "LEAVES WITH"
_FIRST = "the first held address"
Rules = redirect.Redirects | acl.AccessList | forward.Forwards


def _redirect_rows(redirects: redirect.Redirects) -> Rows:
    rows: Rows = [("LOCAL PORT", "PROTOCOL", "DESTINATION", _FROM)]
    rules: list[redirect.Redirect | redirect.NamedRedirect] = [*redirects.rules, *redirects.names]
    for rule in sorted(rules, key=lambda rule: rule.line):
        ports = f"{rule.first}-{rule.last}" if rule.is_range else str(rule.first)
        host = rule.target if isinstance(rule, redirect.Redirect) else rule.name
        target = printed(host) if rule.is_range else printed(host, rule.target_port or rule.first)
        where = f"{target}, same port" if rule.is_range else target
        rows.append((ports, rule.protocol.value, where, _leaves(rule.leaving)))
    for version, fallback, leaving in (
        (4, redirects.fallback_v4, redirects.fallback_v4_leaving),
        (6, redirects.fallback_v6, redirects.fallback_v6_leaving),
    ):
        where = "rejected" if fallback is None else f"{fallback}, same port"
        rows.append((f"other, IPv{version}", "any", where, "" if fallback is None else _leaves(leaving)))
    return _without_empty_from(rows)


def _leaves(leaving: Leaving) -> str:
    if isinstance(leaving, Spread):
        return "every address in turn"
    return _FIRST if leaving is None else str(leaving)


def _without_empty_from(rows: Rows) -> Rows:
    """Drop the last column if no line says with which address it leaves."""
    differs = any(row[-1] not in {"", _FIRST} for row in rows[1:])
    return rows if differs else [row[:-1] for row in rows]


def _access_rows(access_list: acl.AccessList) -> Rows:
    rules = access_list.rules
    rows: Rows = [("LINE", "VERDICT", "DESTINATION", "PORT", _FROM)]
    for rule in rules:
        port = "any" if rule.port is None else str(rule.port)
        rows.append(
            (
                str(rule.line),
                "allow" if rule.allows else "deny",
                _subject(rule.subject),
                port,
                _leaves(rule.leaving) if rule.allows else "",
            )
        )
    if not isinstance(rules[-1].subject, acl.Everything):
        rows.append(("-", "deny", "everything else", "any", ""))
    return _without_empty_from(rows)


def _subject(subject: acl.Subject) -> str:
    match subject:
        case acl.Everything():
            return "every remote destination"
        case acl.Domain(name, below):
            return f"{name} and all names below it" if below else name
        case _:
            return str(subject.network_address) if subject.num_addresses == 1 else str(subject)


def _forward_rows(forwards: forward.Forwards) -> Rows:
    rows: Rows = [("LOCAL PORT", "DESTINATION", _FROM)]
    rows += [
        (str(line.port), printed(line.target, line.target_port), _leaves(line.leaving))
        for line in forwards.lines
    ]
    return _without_empty_from(rows)


def rows(rules: Rules) -> Rows:
    """Return rules of any kind as a table."""
    match rules:
        case redirect.Redirects():
            return _redirect_rows(rules)
        case acl.AccessList():
            return _access_rows(rules)
        case forward.Forwards():
            return _forward_rows(rules)


def warnings(source: str, rules: Rules) -> list[Problem]:
    """Return the lines that can never act; in other kinds of rules such a line is an error."""
    return lint.access_list(source, rules) if isinstance(rules, acl.AccessList) else []


def policy_rows(policy: EgressPolicy) -> Rows:
    """Return the entries of an egress policy, and what happens to everything else."""
    found: Rows = [("ENTRY", "EFFECT", "DESTINATION", "PORTS")]
    for each in policy.entries:
        ports = ", ".join(map(str, each.ports)) or "any"
        found.append((str(each.number), each.effect.value.lower(), str(each.selector), ports))
    found.append(("-", "allow", "everything else", "any"))
    return found


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the program: the name of its image, its variables and rules, and how they are read."""

    name: str
    image: str
    variables: Sequence[Variable[object] | RulesVariable]
    rules: RulesVariable
    read: Callable[[Mapping[str, str]], object]
    parser: Callable[[Mapping[str, str]], Callable[[str, str], Rules] | None]
    policy_parser: Callable[[Mapping[str, str]], Callable[[str, str], EgressPolicy]]

    @property
    def known(self) -> frozenset[str]:
        """Every name that this command reads from its environment."""
        files = {each.file_name for each in self.variables if isinstance(each, RulesVariable)}
        return frozenset({each.name for each in self.variables} | files)


COMMANDS = (  # in the order of KINDS
    Command(
        "setup",
        "egress-router",
        setup.VARIABLES,
        setup.RULES,
        setup.read_setup,
        setup.rules_parser,
        setup.policy_parser,
    ),
    Command(
        "http-proxy",
        "egress-http-proxy",
        http_proxy.VARIABLES,
        http_proxy.RULES,
        http_proxy.read_http_proxy,
        http_proxy.rules_parser,
        policy_parser,
    ),
    Command(
        "dns-proxy",
        "egress-dns-proxy",
        dns_proxy.VARIABLES,
        dns_proxy.RULES,
        dns_proxy.read_dns_proxy,
        dns_proxy.rules_parser,
        policy_parser,
    ),
)
_BY_KIND = dict(zip(KINDS, COMMANDS, strict=True))


def checked(kind: str, text: str, environ: Mapping[str, str]) -> Report:
    """Return the rules of `text` as a table, and the lines that can never act.

    `environ` may hold variables of the router that the rules depend on: the administration port, which no
    line may take, and the addresses of EGRESS_SOURCE.

    Raises:
        ConfigError: with every error of the text, under the name of the kind's variable.
    """
    command = _BY_KIND[kind]
    known = (common.ADMIN_PORT.name, SOURCE.name)
    parse = command.parser({name: environ[name] for name in known if name in environ})
    if parse is None:
        raise AssertionError("without EGRESS_ROUTER_MODE every command has rules")
    rules = parse(command.rules.name, text)
    return Report((Table("rules", rows(rules)),), tuple(warnings(command.rules.name, rules)))
