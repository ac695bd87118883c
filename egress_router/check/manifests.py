"""`egress-router check` of Kubernetes manifests: their EGRESS_* variables, policies and EgressRouters."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.check.report import Report, Rows, Table
from egress_router.check.rules import COMMANDS, policy_rows, warnings
from egress_router.errors import ConfigError, Problem
from egress_router.grammar import lint
from egress_router.grammar.lines import rule_lines
from egress_router.manifests import containers, egress_policy, egress_router
from egress_router.settings import common
from egress_router.settings.policy import POLICY
from egress_router.settings.subnet import SOURCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.check.rules import Command
    from egress_router.manifests.containers import Container
    from egress_router.manifests.objects import Object, Text
    from egress_router.settings.variables import RulesVariable

_NOTHING = (
    "nothing was checked: no container here has an EGRESS_* variable, and there is no egress policy and no"
    " EgressRouter (a ConfigMap and the Pod that uses it belong together, in one file or in files given"
    " together); rules alone: egress-router check redirect|http-proxy|dns-proxy FILE"
)


def manifests(*files: tuple[str, str]) -> Report:
    """Return what was found in the Kubernetes manifests of files, each given as its name and its text.

    Raises:
        ConfigError: with every error of all objects, each with file, document, container and line; or there
            was nothing to check.
    """
    nothing = Problem(", ".join(name for name, _ in files), None, None, _NOTHING)
    try:
        found = containers.read(*files)
    except ConfigError as error:
        raise ConfigError([*error.problems, nothing]) from None
    problems, warned = [*found.problems], list[Problem]()
    rows: Rows = [("DOCUMENT", "CONTAINER", "COMMAND", "VARIABLES", "RULES")]
    for container in found.containers:
        command = _command_of(container)
        checks = (_check_rules(container, command), _check_policy(container, command))
        problems += [*container.problems, *_check_names(container, command)]
        problems += _check_values(container, command)
        for each in checks:
            problems += each.problems
            warned += each.warnings
        count = str(len(container.values) + len(container.unknown))
        known = ", ".join(each.known for each in checks if each.known != _NONE) or _NONE
        rows.append((container.document, container.name, command.name, count, known))
    tables = [Table("containers", rows)] if found.containers else []
    for other in found.others:
        checked, more = _check_object(other)
        tables += [checked] if checked else []
        problems += more.problems
        warned += more.warnings
    if not found.containers and not found.others:
        problems.append(nothing)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))  # two containers may share a ConfigMap
    return Report(tuple(tables), tuple(dict.fromkeys(warned)))


def _check_object(found: Object) -> tuple[Table | None, _Checked]:
    """Check an egress policy, or an EgressRouter of OpenShift 4."""
    try:
        if found.kind == egress_router.KIND:
            router = egress_router.read(found.place, found.node)
            return Table(found.title, router.rows), _Checked("")
        policy = egress_policy.read(found.place, found.node)
    except ConfigError as error:
        return None, _Checked("", error.problems)
    return Table(found.title, policy_rows(policy)), _Checked("", (), lint.egress_policy(found.place, policy))


def _command_of(container: Container) -> Command:
    """Return the command of a container: what its image or arguments name, else what reads most variables."""
    for command in reversed(COMMANDS):  # `egress-router` is the beginning of every command line
        if any(word == command.name or word.endswith(command.image) for word in container.words):
            return command
    names = {*container.values, *container.unknown}
    return max(COMMANDS, key=lambda command: len(names & command.known))


def _check_names(container: Container, command: Command) -> list[Problem]:
    problems = []
    for name in sorted({*container.values, *container.unknown} - command.known):
        readers = [each.name for each in COMMANDS if name in each.known]
        similar = difflib.get_close_matches(name, command.known, n=1)
        if readers:
            reason = f"is not read by {command.name}, which runs here, but by {' and '.join(readers)}"
        elif similar:
            reason = f"is not a variable of {command.name}; did you mean {similar[0]}?"
        else:
            reason = f"is not a variable of {command.name}"
        problems.append(_problem(container, name, reason))
    return problems


def _check_values(container: Container, command: Command) -> list[Problem]:
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


def _comes_from_elsewhere(container: Container, command: Command, name: str) -> bool:
    rules = {command.rules.name, command.rules.file_name}
    names = rules if name in rules else {name}
    return container.is_open or not names.isdisjoint(container.unknown)


@dataclass(frozen=True, slots=True)
class _Checked:
    """What is known about a container's rules, what is wrong with them, and which lines can never act."""

    known: str
    problems: Sequence[Problem] = ()
    warnings: Sequence[Problem] = ()


_NONE = "-"


def _check_rules(container: Container, command: Command) -> _Checked:
    found = _text_of(container, command.rules)
    if isinstance(found, _Checked):
        return found
    parse = command.parser(_surroundings(container, command))
    if parse is None:
        return _Checked("not used in this mode")
    try:
        parsed = parse(command.rules.name, found.text)
    except ConfigError as error:
        return _Checked(_NONE, _placed(found, error.problems))
    count = len(list(rule_lines(found.text)))
    found_warnings = _placed(found, warnings(command.rules.name, parsed))
    return _Checked(f"{count} line{'' if count == 1 else 's'}", (), found_warnings)


def _check_policy(container: Container, command: Command) -> _Checked:
    found = _text_of(container, POLICY)
    if isinstance(found, _Checked):
        return found if found.known == _NONE else _Checked(f"policy {found.known}")
    try:
        policy = command.policy_parser(_surroundings(container, command))(POLICY.name, found.text)
    except ConfigError as error:
        return _Checked(_NONE, _placed(found, error.problems))
    found_warnings = _placed(found, lint.egress_policy(POLICY.name, policy))
    return _Checked(f"policy of {len(policy.entries)}", (), found_warnings)


def _text_of(container: Container, variable: RulesVariable) -> Text | _Checked:
    """Return the text of rules that a container has, or why there is none to check."""
    for name in (variable.name, variable.file_name):
        if name in container.unknown:
            return _Checked(f"not checked: {container.unknown[name]}")
    rules: Text | None = container.values.get(variable.name)
    if rules is not None and rules.text.strip():
        return rules
    path = container.values.get(variable.file_name)
    if path is None or not path.text.strip():
        return _Checked(_NONE)
    found = container.files.get(path.text.strip())
    return _Checked(f"not checked: {path.text.strip()} is not in this file") if found is None else found


def _placed(rules: Text, problems: Sequence[Problem]) -> list[Problem]:
    """Return problems of a text with their lines in the file that holds the text."""
    return [rules.problem(each.line, each.text, each.reason) for each in problems]


def _surroundings(container: Container, command: Command) -> dict[str, str]:
    """Return the variables beside the rules; an administration port that is not known conflicts with no line.

    A source that is given nowhere counts as empty, so that no rule can say `from`.
    """
    environ = {name: value.text for name, value in container.values.items()}
    if not _comes_from_elsewhere(container, command, SOURCE.name):
        environ.setdefault(SOURCE.name, "")
    port = common.ADMIN_PORT.name
    if port not in environ and _comes_from_elsewhere(container, command, port):
        environ[port] = "0"
    return environ


def _problem(container: Container, name: str, reason: str) -> Problem:
    """Return a problem of a variable; it is at the container's line if the variable is missing."""
    value = container.values.get(name)
    if value is not None:
        return value.problem(None, None, reason)
    return Problem(f"{container.place} {name}", container.line, None, reason)
