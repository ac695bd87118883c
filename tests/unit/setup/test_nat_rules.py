from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from egress_router.grammar.redirect import parse
from egress_router.kernel.nat.plan import Surroundings
from egress_router.manifests import egress_policy
from egress_router.policy.egress_policy import NO_NAMES
from egress_router.settings.policy import Guarded
from egress_router.settings.setup import read_setup
from egress_router.setup import nat_rules

if TYPE_CHECKING:
    from egress_router.kernel.nat.plan import NatPlan

SETTINGS = read_setup(
    {
        "EGRESS_SOURCE": "192.168.12.99/24",
        "EGRESS_GATEWAY": "192.168.12.1",
        "EGRESS_DESTINATION": "80 tcp 203.0.113.25",
    }
)
TO_AN_ADDRESS = parse("R", "80 tcp 203.0.113.25")
DENIES_IT = {
    "kind": "EgressNetworkPolicy",
    "apiVersion": "network.openshift.io/v1",
    "metadata": {"name": "default"},
    "spec": {"egress": [{"type": "Deny", "to": {"cidrSelector": "203.0.113.0/24"}}]},
}
LOADS = """
import sys
import egress_router.cli, egress_router.setup.steps
print(*sys.modules)
"""


def established(plans: list[NatPlan]) -> nat_rules.Established:
    return nat_rules.Established(plans.append, Surroundings(), "", {})


def test_a_start_loads_nothing_that_asks_name_servers_until_there_is_a_name() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", LOADS], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "egress_router.setup.nat_rules" in loaded
    assert not {"egress_router.names.resolver", "egress_router.redirect.first"} & set(loaded)


def test_without_names_nobody_is_asked() -> None:
    before = established([])
    assert nat_rules.resolve_names(SETTINGS, None, before) is before
    assert nat_rules.resolve_names(SETTINGS, Guarded(TO_AN_ADDRESS, None), before) is before


def test_a_policy_without_names_asks_nobody_either_and_denies_where_a_line_leads() -> None:
    plans: list[NatPlan] = []
    guarded = Guarded(TO_AN_ADDRESS, egress_policy.parse("P", json.dumps(DENIES_IT)))
    resolved = nat_rules.resolve_names(SETTINGS, guarded, established(plans))
    assert (resolved.resolved, resolved.policy_names) == ({}, {})
    sources = [ip_address("192.168.12.99")]
    (denied,) = nat_rules.apply_rules(SETTINGS, guarded, resolved, sources, NO_NAMES)
    assert denied.address == ip_address("203.0.113.25")
    without = nat_rules.apply_rules(SETTINGS, replace(guarded, policy=None), resolved, sources, NO_NAMES)
    assert without == ()
    assert [plan.denials for plan in plans] == [(denied,), ()]
