"""`egress-router check`: the parsed rules as a table, or every error; of one text, or of whole manifests."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.errors import ConfigError, Problem
from egress_router.grammar import acl, forward, manifest, redirect
from egress_router.grammar.address import printed
from egress_router.grammar.lines import rule_lines
from egress_router.settings import common, dns_proxy, http_proxy, setup
from egress_router.settings.variables import RulesVariable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from egress_router.grammar.manifest import Container
    from egress_router.grammar.objects import Text
    from egress_router.settings.variables import Variable

Rows = list[tuple[str, ...]]


def _redirect_rows(source: str, text: str) -> Rows:
    redirects = redirect.parse(source, text)
    rows: Rows = [("LOCAL PORT", "PROTOCOL", "DESTINATION")]
    for rule in redirects.rules:
        ports = f"{rule.first}-{rule.last}" if rule.is_range else str(rule.first)
        target = (
            printed(rule.target) if rule.is_range else printed(rule.target, rule.target_port or rule.first)
        )
        where = f"{target}, same port" if rule.is_range else target
        rows.append((ports, rule.protocol.value, where + _remark(rule)))
    for version, fallback in ((4, redirects.fallback_v4), (6, redirects.fallback_v6)):
        where = "rejected" if fallback is None else f"{fallback}, same port"
        rows.append((f"other, IPv{version}", "any", where))
    return rows


def _remark(rule: redirect.Redirect) -> str:
    """Say of a line that `setup` refuses it where EGRESS_ADMIN_PORT has its default; it is unknown here."""
    default = int(common.ADMIN_PORT.default or 0)
    if redirect.Router(admin_port=default).shadowed(rule) is None:
        return ""
    return f" (refused unless {common.ADMIN_PORT.name} is another port than {default}, or 0)"


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


@dataclass(frozen=True, slots=True)
class _Command:
    """A command of the program: the name of its image, its variables and rules, and how they are read."""

    name: str
    image: str
    variables: Sequence[Variable[object] | RulesVariable]
    rules: RulesVariable
    read: Callable[[Mapping[str, str]], object]
    parser: Callable[[Mapping[str, str]], Callable[[str, str], object] | None]
    rows: Callable[[str, str], Rows]

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
        _redirect_rows,
    ),
    _Command(
        "http-proxy",
        "egress-http-proxy",
        http_proxy.VARIABLES,
        http_proxy.RULES,
        http_proxy.read_http_proxy,
        http_proxy.rules_parser,
        _access_rows,
    ),
    _Command(
        "dns-proxy",
        "egress-dns-proxy",
        dns_proxy.VARIABLES,
        dns_proxy.RULES,
        dns_proxy.read_dns_proxy,
        dns_proxy.rules_parser,
        _forward_rows,
    ),
)
_NOTHING = (
    "nothing was checked: no container here has an EGRESS_* variable (a ConfigMap and the Pod that uses it"
    " belong in one file); rules alone: egress-router check redirect|http-proxy|dns-proxy FILE"
)
_KINDS = {"redirect": _COMMANDS[0], "http-proxy": _COMMANDS[1], "dns-proxy": _COMMANDS[2]}


def checked(kind: str, text: str) -> str:
    """Return the rules of `text` as a table.

    Raises:
        ConfigError: with every error of the text, named as the kind's variable names them.
    """
    command = _KINDS[kind]
    return table(command.rows(command.rules.name, text))


def manifests(name: str, text: str) -> str:
    """Return what was found in the Kubernetes manifests of a file called `name`, as a table.

    Raises:
        ConfigError: with every error of all containers, each with document, container and line; or there
            was nothing to check.
    """
    rows: Rows = [("DOCUMENT", "CONTAINER", "COMMAND", "VARIABLES", "RULES")]
    nothing = Problem(name, None, None, _NOTHING)
    try:
        found = manifest.read(name, text)
    except ConfigError as error:
        raise ConfigError([*error.problems, nothing]) from None
    problems = [*found.problems]
    for container in found.containers:
        command = _command_of(container)
        rules, rule_problems = _check_rules(container, command)
        problems += [*container.problems, *_check_names(container, command)]
        problems += [*_check_values(container, command), *rule_problems]
        count = len(container.values) + len(container.unknown)
        rows.append((container.document, container.name, command.name, str(count), rules))
    if not found.containers:
        problems.append(nothing)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))  # two containers may share a ConfigMap
    return table(rows)


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


def _check_rules(container: Container, command: _Command) -> tuple[str, list[Problem]]:
    """Return what is known of the rules of a container, and what is wrong with them."""
    variable = command.rules
    for name in (variable.name, variable.file_name):
        if name in container.unknown:
            return f"not checked: {container.unknown[name]}", []
    rules: Text | None = container.values.get(variable.name)
    if rules is None or not rules.text.strip():
        path = container.values.get(variable.file_name)
        if path is None or not path.text.strip():
            return "-", []
        rules = container.files.get(path.text.strip())
        if rules is None:
            return f"not checked: {path.text.strip()} is not in this file", []
    parse = command.parser(_surroundings(container, command))
    if parse is None:
        return "not used in this mode", []
    try:
        parse(variable.name, rules.text)
    except ConfigError as error:
        return "-", [rules.problem(each.line, each.text, each.reason) for each in error.problems]
    count = len(list(rule_lines(rules.text)))
    return f"{count} line{'' if count == 1 else 's'}", []


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
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)
