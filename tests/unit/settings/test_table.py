"""A field of a settings class is its variable, default and help at once."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass

import pytest

from egress_router.errors import ConfigError
from egress_router.settings.catalogue import VARIABLES
from egress_router.settings.dns_proxy import DnsProxySettings
from egress_router.settings.http_proxy import HttpProxySettings
from egress_router.settings.setup import SetupSettings
from egress_router.settings.table import group, optional_rules, read_all, rules, setting, variables
from egress_router.settings.variables import (
    RulesSource,
    RulesVariable,
    Variable,
    flag,
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
    return read_all(Outer, environ)


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


@pytest.mark.parametrize(
    ("command", "table"),
    [("setup", SetupSettings), ("http-proxy", HttpProxySettings), ("dns-proxy", DnsProxySettings)],
)
def test_a_new_setting_is_a_field_of_the_table_and_nothing_else(command: str, table: type[object]) -> None:
    """`--help`, the check of manifests and that of the manual take the catalogue, and that takes the tables."""
    assert VARIABLES[command] == variables(table)
    limit = Variable("EGRESS_NEW_LIMIT", "a limit", "7", whole(1, 9))
    longer = make_dataclass("Longer", [("new_limit", int, setting(limit))], bases=(table,), frozen=True)
    assert limit in variables(longer)
    environ = {
        "EGRESS_SOURCE": "192.168.12.99/24",
        "EGRESS_GATEWAY": "192.168.12.1",
        "EGRESS_DESTINATION": "203.0.113.25",
        "EGRESS_HTTP_PROXY_DESTINATION": "*",
        "EGRESS_DNS_PROXY_DESTINATION": "80 203.0.113.25",
        "EGRESS_NEW_LIMIT": "3",
    }
    assert read_all(longer, environ).new_limit == 3
    with pytest.raises(ConfigError, match="EGRESS_NEW_LIMIT"):
        read_all(longer, {**environ, "EGRESS_NEW_LIMIT": "10"})
