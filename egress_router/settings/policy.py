"""The setting of the egress policy, which all modes share."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from egress_router.errors import ConfigError, Problem, RefusedError
from egress_router.settings.variables import RulesVariable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from egress_router.grammar.egress_policy import EgressPolicy
    from egress_router.settings.variables import RulesSource

Rules = TypeVar("Rules")
POLICY = RulesVariable(
    "EGRESS_POLICY",
    "egress policy: an EgressNetworkPolicy or an EgressFirewall, as JSON or YAML",
    required=False,
)


def policy_parser(_: Mapping[str, str]) -> Callable[[str, str], EgressPolicy]:
    """Return the parser of an egress policy, which does not depend on other settings."""
    return parse_policy


def parse_policy(source: str, text: str) -> EgressPolicy:
    """Read an egress policy; the YAML reader, which most routers do not need, is imported here.

    Raises:
        ConfigError: with every error of the text.
    """
    from egress_router.manifests import egress_policy  # noqa: PLC0415

    return egress_policy.parse(source, text)


@dataclass(frozen=True, slots=True)
class Guarded(Generic[Rules]):
    """Rules and the egress policy that applies to them; None: there is none."""

    rules: Rules
    policy: EgressPolicy | None

    def policy_lines(self) -> tuple[str, ...]:
        """The entries of the policy as lines, for a readable difference."""
        entries = () if self.policy is None else self.policy.entries
        return tuple(each.described for each in entries)


@dataclass(frozen=True, slots=True)
class GuardedSource:
    """Where rules and their policy come from: both are joined into one text, so that they change together."""

    rules: RulesSource
    policy: RulesSource | None

    @property
    def name(self) -> str:
        """How errors name this source."""
        return self.rules.name if self.policy is None else f"{self.rules.name}, {self.policy.name}"

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that may change."""
        return (*self.rules.paths, *(() if self.policy is None else self.policy.paths))

    def read(self) -> str:
        """Return both texts as one.

        Raises:
            ConfigError: one of them cannot be read.
        """
        rules = self.rules.read()
        return rules if self.policy is None else joined(rules, self.policy.read())

    def rules_of(self, text: str) -> str:
        """Return the rules' part of the joined text."""
        return text if self.policy is None else _parted(text)[0]

    def parser(
        self,
        parse: Callable[[str, str], Rules],
        parse_policy: Callable[[str, str], EgressPolicy] = parse_policy,
    ) -> Callable[[str, str], Guarded[Rules]]:
        """Return the parser of the joined text; `parse` reads the rules in it, `parse_policy` the policy."""
        return functools.partial(_parse_guarded, self, parse, parse_policy)


def joined(rules: str, policy: str) -> str:
    """Return rules and policy as one text, as a `GuardedSource` with both reads them."""
    return f"{len(rules)}\n{rules}{policy}"


def _parted(text: str) -> tuple[str, str]:
    """Split a text that `joined` made into rules and policy."""
    length, _, both = text.partition("\n")
    return both[: int(length)], both[int(length) :]


def _parse_guarded(
    source: GuardedSource,
    parse: Callable[[str, str], Rules],
    parse_policy: Callable[[str, str], EgressPolicy],
    _: str,
    text: str,
) -> Guarded[Rules]:
    if source.policy is None:
        return Guarded(parse(source.rules.name, text), None)
    rules_text, policy_text = _parted(text)
    problems: list[Problem] = []
    rules = policy = None
    try:
        rules = parse(source.rules.name, rules_text)
    except ConfigError as error:
        problems += error.problems
    try:
        policy = parse_policy(source.policy.name, policy_text)
    except ConfigError as error:
        problems += error.problems
    if problems or rules is None:
        raise ConfigError(problems)
    return Guarded(rules, policy)


def refuse_unenforced(policy: RulesSource | None, mode: str) -> None:
    """Refuse to start with a policy that this mode does not enforce: to ignore it would allow what it denies.

    Raises:
        RefusedError: a policy is given.
    """
    if policy is not None:
        raise RefusedError(
            f"{policy.variable} is set, and {mode} does not enforce an egress policy",
            "give it to the container that decides what is reached",
        )
