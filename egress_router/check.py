"""`egress-router check`: the parsed rules as a table, or every error; of one text, or of whole manifests.

What is well formed and yet does nothing is a warning.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.errors import ConfigError, Problem
from egress_router.grammar import acl, forward, lint, redirect
from egress_router.grammar.address import printed
from egress_router.grammar.lines import rule_lines
from egress_router.manifests import containers
from egress_router.settings import common, dns_proxy, http_proxy, setup
from egress_router.settings.subnet import SOURCE
from egress_router.settings.variables import RulesVariable
from egress_router.terminal import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from egress_router.manifests.containers import Container
    from egress_router.manifests.objects import Text
    from egress_router.settings.variables import Variable

Rows = list[tuple[str, ...]]
Rules = redirect.Redirects | acl.AccessList | forward.Forwards


@dataclass(frozen=True, slots=True)
class Report:
    """What `check` found where nothing is wrong: the rules as a table, and what in them can never act."""

    table: str
    warnings: tuple[Problem, ...] = ()


def _redirect_rows(redirects: redirect.Redirects) -> Rows:
    rows: Rows = [("LOCAL PORT", "PROTOCOL", "DESTINATION")]
    for rule in redirects.rules:
        ports = f"{rule.first}-{rule.last}" if rule.is_range else str(rule.first)
        target = (
            printed(rule.target) if rule.is_range else printed(rule.target, rule.target_port or rule.first)
        )
        where = f"{target}, same port" if rule.is_range else target
        rows.append((ports, rule.protocol.value, where))
    for version, fallback in ((4, redirects.fallback_v4), (6, redirects.fallback_v6)):
        where = "rejected" if fallback is None else f"{fallback}, same port"
        rows.append((f"other, IPv{version}", "any", where))
    return rows


def _access_rows(access_list: acl.AccessList) -> Rows:
    rules = access_list.rules
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


def _forward_rows(forwards: forward.Forwards) -> Rows:
    rows: Rows = [("LOCAL PORT", "DESTINATION")]
    rows += [(str(line.port), printed(line.target, line.target_port)) for line in forwards.lines]
    return rows


def _rows(rules: Rules) -> Rows:
    match rules:
        case redirect.Redirects():
            return _redirect_rows(rules)
        case acl.AccessList():
            return _access_rows(rules)
        case forward.Forwards():
            return _forward_rows(rules)


def _warnings(source: str, rules: Rules) -> list[Problem]:
    """Return what can never act; in the other kinds of rules what cannot is an error."""
    return lint.access_list(source, rules) if isinstance(rules, acl.AccessList) else []


@dataclass(frozen=True, slots=True)
class _Command:
    """A command of the program: the name of its image, its variables and rules, and how they are read."""

    name: str
    image: str
    variables: Sequence[Variable[object] | RulesVariable]
    rules: RulesVariable
    read: Callable[[Mapping[str, str]], object]
    parser: Callable[[Mapping[str, str]], Callable[[str, str], Rules] | None]

    @property
    def known(self) -> frozenset[str]:
        """Every name that this command reads from its environment."""
        files = {each.file_name for each in self.variables if isinstance(each, RulesVariable)}
        return frozenset({each.name for each in self.variables} | files)


_COMMANDS = (
    _Command(
        "setup",
        "egress-router",
        # The contract has one list for whatever stays, so a manifest may set this for setup too.
        (*setup.VARIABLES, common.DRAIN_SECONDS),
        setup.RULES,
        setup.read_setup,
        setup.rules_parser,
    ),
    _Command(
        "http-proxy",
        "egress-http-proxy",
        http_proxy.VARIABLES,
        http_proxy.RULES,
        http_proxy.read_http_proxy,
        http_proxy.rules_parser,
    ),
    _Command(
        "dns-proxy",
        "egress-dns-proxy",
        dns_proxy.VARIABLES,
        dns_proxy.RULES,
        dns_proxy.read_dns_proxy,
        dns_proxy.rules_parser,
    ),
)
_NOTHING = (
    "nothing was checked: no container here has an EGRESS_* variable (a ConfigMap and the Pod that uses it"
    " belong in one file); rules alone: egress-router check redirect|http-proxy|dns-proxy FILE"
)
_KINDS = {"redirect": _COMMANDS[0], "http-proxy": _COMMANDS[1], "dns-proxy": _COMMANDS[2]}


def checked(kind: str, text: str, environ: Mapping[str, str]) -> Report:
    """Return the rules of `text` as a table, and what in them can never act.

    `environ` may say more of the router, as it does to the program that runs the rules: the administration
    port, which no line may take, and the addresses of EGRESS_SOURCE.

    Raises:
        ConfigError: with every error of the text, named as the kind's variable names them.
    """
    command = _KINDS[kind]
    known = (common.ADMIN_PORT.name, SOURCE.name)
    parse = command.parser({name: environ[name] for name in known if name in environ})
    if parse is None:
        raise AssertionError("without EGRESS_ROUTER_MODE every command has rules")
    rules = parse(command.rules.name, text)
    return Report(table(_rows(rules)), tuple(_warnings(command.rules.name, rules)))


def manifests(name: str, text: str) -> Report:
    """Return what was found in the Kubernetes manifests of a file called `name`.

    Raises:
        ConfigError: with every error of all containers, each with document, container and line; or there
            was nothing to check.
    """
    rows: Rows = [("DOCUMENT", "CONTAINER", "COMMAND", "VARIABLES", "RULES")]
    nothing = Problem(name, None, None, _NOTHING)
    try:
        found = containers.read(name, text)
    except ConfigError as error:
        raise ConfigError([*error.problems, nothing]) from None
    problems = [*found.problems]
    warnings: list[Problem] = []
    for container in found.containers:
        command = _command_of(container)
        rules = _check_rules(container, command)
        problems += [*container.problems, *_check_names(container, command)]
        problems += [*_check_values(container, command), *rules.problems]
        warnings += rules.warnings
        count = len(container.values) + len(container.unknown)
        rows.append((container.document, container.name, command.name, str(count), rules.known))
    if not found.containers:
        problems.append(nothing)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))  # two containers may share a ConfigMap
    return Report(table(rows), tuple(dict.fromkeys(warnings)))


def _command_of(container: Container) -> _Command:
    """Return what runs in a container: what its image or arguments name, else what reads most variables."""
    for command in reversed(_COMMANDS):  # `egress-router` is the beginning of every command line
        if any(word == command.name or word.endswith(command.image) for word in container.words):
            return command
    names = {*container.values, *container.unknown}
    return max(_COMMANDS, key=lambda command: len(names & command.known))


def _check_names(container: Container, command: _Command) -> list[Problem]:
    problems = []
    for name in sorted({*container.values, *container.unknown} - command.known):
        readers = [each.name for each in _COMMANDS if name in each.known]
        similar = difflib.get_close_matches(name, command.known, n=1)
        if readers:
            reason = f"is not read by {command.name}, which runs here, but by {' and '.join(readers)}"
        elif similar:
            reason = f"is not a variable of {command.name}; did you mean {similar[0]}?"
        else:
            reason = f"is not a variable of {command.name}"
        problems.append(_problem(container, name, reason))
    return problems


def _check_values(container: Container, command: _Command) -> list[Problem]:
    try:
        command.read({name: value.text for name, value in container.values.items()})
    except ConfigError as error:
        found = error.problems
    else:
        found = ()
    problems = []
    for each in found:
        if each.source in container.values:
            problems.append(container.values[each.source].problem(None, each.text, each.reason))
        elif not _comes_from_elsewhere(container, command, each.source):
            problems.append(_problem(container, each.source, each.reason))
    return problems


def _comes_from_elsewhere(container: Container, command: _Command, name: str) -> bool:
    rules = {command.rules.name, command.rules.file_name}
    names = rules if name in rules else {name}
    return container.is_open or not names.isdisjoint(container.unknown)


@dataclass(frozen=True, slots=True)
class _Checked:
    """What is known of the rules of a container, what is wrong with them, and what in them can never act."""

    known: str
    problems: Sequence[Problem] = ()
    warnings: Sequence[Problem] = ()


def _check_rules(container: Container, command: _Command) -> _Checked:
    variable = command.rules
    for name in (variable.name, variable.file_name):
        if name in container.unknown:
            return _Checked(f"not checked: {container.unknown[name]}")
    rules: Text | None = container.values.get(variable.name)
    if rules is None or not rules.text.strip():
        path = container.values.get(variable.file_name)
        if path is None or not path.text.strip():
            return _Checked("-")
        rules = container.files.get(path.text.strip())
        if rules is None:
            return _Checked(f"not checked: {path.text.strip()} is not in this file")
    parse = command.parser(_surroundings(container, command))
    if parse is None:
        return _Checked("not used in this mode")
    try:
        parsed = parse(variable.name, rules.text)
    except ConfigError as error:
        return _Checked("-", _placed(rules, error.problems))
    count = len(list(rule_lines(rules.text)))
    warnings = _placed(rules, _warnings(variable.name, parsed))
    return _Checked(f"{count} line{'' if count == 1 else 's'}", (), warnings)


def _placed(rules: Text, problems: Sequence[Problem]) -> list[Problem]:
    """Return problems of a text with their lines in the file that holds the text."""
    return [rules.problem(each.line, each.text, each.reason) for each in problems]


def _surroundings(container: Container, command: _Command) -> dict[str, str]:
    """Return the variables beside the rules; an administration port that nobody knows is in no line's way."""
    environ = {name: value.text for name, value in container.values.items()}
    port = common.ADMIN_PORT.name
    if port not in environ and _comes_from_elsewhere(container, command, port):
        environ[port] = "0"
    return environ


def _problem(container: Container, name: str, reason: str) -> Problem:
    """Return a problem of a variable; on the container's line where the variable is missing."""
    value = container.values.get(name)
    if value is not None:
        return value.problem(None, None, reason)
    return Problem(f"{container.place} {name}", container.line, None, reason)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align cells in columns, two blanks apart; the first row is the head."""
    rows = [[visible(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)
