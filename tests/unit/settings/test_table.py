"""A field of a settings class is its variable, default and help at once."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from egress_router.errors import ConfigError
from egress_router.settings.table import group, optional_rules, read, rules, setting, variables
from egress_router.settings.variables import (
    Environment,
    RulesSource,
    RulesVariable,
    Variable,
    flag,
    required,
    whole,
)

OPTIONAL = RulesVariable("T_MORE", "more rules", required=False)


@dataclass(frozen=True, slots=True)
class Inner:
    number: int = setting(Variable("T_NUMBER", "a number", "7", whole(1, 9)))
    switch: bool = setting(Variable("T_SWITCH", "a switch", "0", flag))


@dataclass(frozen=True, slots=True)
class Outer:
    inner: Inner = group(Inner)
    rules: RulesSource = rules(RulesVariable("T_RULES", "rules"))
    more: RulesSource | None = optional_rules(OPTIONAL)
    needed: int = setting(Variable("T_NEEDED", "needed", None, whole(1, 9)))


def outer(**environ: str) -> Outer:
    environment = Environment(environ)
    found = read(Outer, environment)
    return environment.finish(lambda: required(found))


def test_fields_have_what_the_environment_says_and_else_their_defaults() -> None:
    assert outer(T_RULES="r", T_NEEDED="3", T_SWITCH="on", T_NUMBER=" ") == Outer(
        inner=Inner(number=7, switch=True), rules=RulesSource("T_RULES", "r", None), more=None, needed=3
    )
    assert Inner() == Inner(number=7, switch=False)


def test_everything_that_is_wrong_is_said_whatever_the_depth() -> None:
    with pytest.raises(ConfigError) as caught:
        outer(T_NUMBER="10", T_SWITCH="x")
    assert [problem.source for problem in caught.value.problems] == [
        "T_NUMBER", "T_SWITCH", "T_RULES", "T_NEEDED",
    ]  # fmt: skip


def test_help_names_own_settings_first_and_those_of_groups_behind_them() -> None:
    assert [each.name for each in variables(Outer)] == [
        "T_RULES", "T_MORE", "T_NEEDED", "T_NUMBER", "T_SWITCH",
    ]  # fmt: skip
