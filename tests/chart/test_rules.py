"""Rules, policies and the administrator's rules: where they go, and that they are checked before an upgrade."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from helm_python.errors import HelmError

if TYPE_CHECKING:
    from pathlib import Path
from tests.chart.charting import (
    DNS,
    HTTP,
    MATRIX,
    REDIRECT,
    containers,
    environment,
    is_check,
    is_restricted,
    rendered,
    the,
)


@pytest.mark.parametrize("values", [REDIRECT, HTTP, DNS])
def test_rules_are_checked_before_anything_is_changed(values: dict[str, object], tmp_path: Path) -> None:
    documents = [each for each in json.loads(json.dumps(rendered(values))) if is_check(each)]
    rules, job = documents
    assert (rules["kind"], job["kind"]) == ("ConfigMap", "Job")
    weights = [int(each["metadata"]["annotations"]["helm.sh/hook-weight"]) for each in documents]
    assert weights == sorted(weights)
    assert rules["data"]["destinations"] == values["destinations"]
    pod = job["spec"]["template"]["spec"]
    assert "serviceAccountName" not in pod
    (container,) = pod["containers"]
    assert is_restricted(container["securityContext"])
    program, check, kind, path = container["command"]
    assert (program, check, path) == ("egress-router", "check", "/rules/destinations")
    file = tmp_path / "destinations"
    for text, status in ((rules["data"]["destinations"], 0), ("9797 x", 1)):
        file.write_text(text)
        command = [sys.executable, "-m", "egress_router", check, kind, str(file)]
        given = {**os.environ, **environment(container)}
        assert subprocess.run(command, env=given, capture_output=True, check=False).returncode == status


def test_rules_of_an_existing_config_map_are_checked_where_they_are() -> None:
    (job,) = [
        each for each in json.loads(json.dumps(rendered(MATRIX["existing-config-map"]))) if is_check(each)
    ]
    (volume,) = job["spec"]["template"]["spec"]["volumes"]
    assert volume["configMap"] == {
        "name": "egress-routes",
        "items": [{"key": "destination", "path": "destinations"}],
    }
    assert not [each for each in rendered({**HTTP, "checkRules": {"enabled": False}}) if is_check(each)]


POLICY = "kind: EgressNetworkPolicy\napiVersion: v1\nspec: {egress: [{type: Deny, to: {cidrSelector: 0.0.0.0/0}}]}\n"


@pytest.mark.parametrize("values", [HTTP, DNS, REDIRECT])
def test_a_policy_reaches_what_judges_and_is_checked_before(values: dict[str, object]) -> None:
    given = {**values, "policy": {"inline": POLICY}}
    documents = json.loads(json.dumps(rendered(given)))
    (stored,) = [each for each in documents if each["metadata"]["name"] == "db-egress-router-policy"]
    assert stored["data"] == {"policy": POLICY}
    judges = [
        each
        for each in (*containers(given), *containers(given, "initContainers"))
        if "EGRESS_POLICY_FILE" in environment({"env": [], **each})
    ]
    (judge,) = json.loads(json.dumps(judges))
    folder = environment(judge)["EGRESS_POLICY_FILE"].rpartition("/")[0]
    assert folder in {each["mountPath"] for each in judge["volumeMounts"]}
    (job,) = [each for each in documents if each["kind"] == "Job"]
    commands = [each["command"] for each in job["spec"]["template"]["spec"]["containers"]]
    assert ["egress-router", "check", "/policy/policy"] in commands
    with pytest.raises(HelmError, match=r"give either inline or existingConfigMap\.name"):
        rendered({**values, "policy": {"inline": POLICY, "existingConfigMap": {"name": "x"}}})
    pod = json.loads(
        json.dumps(the("Deployment", {**values, "policy": {"existingConfigMap": {"name": "theirs"}}}))
    )["spec"]["template"]["spec"]
    assert "theirs" in {each["configMap"]["name"] for each in pod["volumes"] if "configMap" in each}


ADMIN_RULES = "ip daddr 203.0.113.25 tcp dport 5432 limit rate over 20/second drop\n"


@pytest.mark.parametrize(
    "values",
    [REDIRECT, {**REDIRECT, "redirect": {"live": False}}, HTTP, {**DNS, "interface": {"provider": "okd"}}],
)
def test_rules_of_the_administrator_reach_the_container_that_fills_the_chain(
    values: dict[str, object],
) -> None:
    given = {**values, "adminRules": {"inline": ADMIN_RULES}}
    documents = json.loads(json.dumps(rendered(given)))
    (stored,) = [each for each in documents if each["metadata"]["name"] == "db-egress-router-admin-rules"]
    assert stored["data"] == {"rules": ADMIN_RULES}
    found = [
        each
        for each in (*containers(given), *containers(given, "initContainers"))
        if "EGRESS_ADMIN_RULES_FILE" in environment({"env": [], **each})
    ]
    (one,) = json.loads(json.dumps(found))
    # Not the container that only makes the network: it has no rules and leaves the chain alone.
    assert environment(one)["EGRESS_ROUTER_MODE"] != "network"
    folder, _, file = environment(one)["EGRESS_ADMIN_RULES_FILE"].rpartition("/")
    (mount,) = [each for each in one["volumeMounts"] if each["mountPath"] == folder]
    pod = json.loads(json.dumps(the("Deployment", given)))["spec"]["template"]
    (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == mount["name"]]
    assert volume["configMap"] == {
        "name": "db-egress-router-admin-rules",
        "items": [{"key": "rules", "path": file}],
    }
    follows = environment(one)["EGRESS_ROUTER_MODE"] == "legacy"
    annotations = pod["metadata"].get("annotations") or {}
    assert ("egress-router/admin-rules" in annotations) is not follows


def test_rules_of_the_administrator_come_from_one_place() -> None:
    with pytest.raises(HelmError, match="adminRules: give either inline or"):
        rendered({**REDIRECT, "adminRules": {"inline": ADMIN_RULES, "existingConfigMap": {"name": "x"}}})
    with pytest.raises(
        HelmError, match=r"the chart sets EGRESS_ADMIN_RULES_FILE itself; use the value adminRules"
    ):
        rendered({**REDIRECT, "setup": {"env": {"EGRESS_ADMIN_RULES_FILE": "/x"}}})
    theirs = {**REDIRECT, "adminRules": {"existingConfigMap": {"name": "theirs", "key": "nft"}}}
    volumes = json.loads(json.dumps(the("Deployment", theirs)))["spec"]["template"]["spec"]["volumes"]
    assert {"name": "theirs", "items": [{"key": "nft", "path": "rules"}]} in [
        each.get("configMap") for each in volumes
    ]


@pytest.mark.parametrize(
    ("values", "rule"),
    [(REDIRECT, "80 tcp 203.0.113.25"), (HTTP, "*.example.com"), (DNS, "80 db.example.com")],
)
def test_several_sources_are_a_list_and_rules_can_name_them(values: dict[str, object], rule: str) -> None:
    listed = ["192.168.12.99/24", "192.168.12.100/24"]
    given = {**values, "source": "", "sources": listed, "destinations": f"{rule} from 192.168.12.100\n"}
    every = [*containers(given), *containers(given, "initContainers")]
    for each in every:
        if "env" in each:
            # A proxy needs them for `from`, setup to claim them.
            assert environment(each)["EGRESS_SOURCE"] == ",".join(listed)
    with pytest.raises(HelmError, match="give either source or sources"):
        rendered({**given, "source": "192.168.12.99/24"})
