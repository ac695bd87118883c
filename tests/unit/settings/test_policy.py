from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from egress_router.errors import ConfigError
from egress_router.grammar import acl
from egress_router.settings.policy import GuardedSource
from egress_router.settings.variables import RulesSource

if TYPE_CHECKING:
    from pathlib import Path

POLICY = "kind: EgressNetworkPolicy\napiVersion: v1\nspec: {egress: [{type: Deny, to: {cidrSelector: %s}}]}\n"


def test_rules_and_policy_are_read_as_one_text_that_changes_with_either(tmp_path: Path) -> None:
    rules, policy = tmp_path / "rules", tmp_path / "policy"
    rules.write_text("a.example\nb.example\n")
    policy.write_text(POLICY % "10.0.0.0/8")
    source = GuardedSource(
        RulesSource("EGRESS_HTTP_PROXY_DESTINATION_FILE", "", rules),
        RulesSource("EGRESS_POLICY_FILE", "", policy),
    )
    assert source.paths == (rules, policy)
    before = source.read()
    found = source.parser(acl.parse)(source.name, before)
    assert [each.text for each in found.rules.rules] == ["a.example", "b.example"]
    assert found.policy is not None
    assert str(found.policy.entries[0]) == "Deny 10.0.0.0/8"
    policy.write_text(POLICY % "10.0.0.0/9")
    assert source.read() != before


def test_errors_of_both_are_told_with_their_own_names_and_lines() -> None:
    source = GuardedSource(
        RulesSource("RULES", "a.example\nb c\n", None), RulesSource("EGRESS_POLICY", POLICY % "x", None)
    )
    with pytest.raises(ConfigError) as caught:
        source.parser(acl.parse)(source.name, source.read())
    first, second = map(str, caught.value.problems)
    assert first.startswith("RULES line 2: 'b c': expected")
    assert second.startswith("EGRESS_POLICY line 3: entry 1: cidrSelector: ")


def test_without_a_policy_the_rules_are_all() -> None:
    source = GuardedSource(RulesSource("RULES", "a.example", None), None)
    assert (source.name, source.paths) == ("RULES", ())
    found = source.parser(acl.parse)(source.name, source.read())
    assert found.policy is None
    assert len(found.rules.rules) == 1
