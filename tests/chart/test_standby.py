"""The chart's standby pair: two pods on two nodes, one source address."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
from helm_python.errors import HelmError

from egress_router.admin.app import READY_OR_STANDBY
from egress_router.settings.setup import read_setup
from egress_router.settings.standby import ObjectName
from tests.chart.charting import (
    BOTH,
    DNS,
    DUAL,
    EVERYTHING,
    FORWARDING,
    HTTP,
    KUBERNETES,
    REDIRECT,
    containers,
    environment,
    ingress,
    is_restricted,
    notes,
    rendered,
    the,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

Json = dict[str, Any]
ON: dict[str, object] = {"standby": {"enabled": True}}
WITH_POLICY = {"standby": {"enabled": True, "admissionPolicy": True}}
MODES = {"redirect": REDIRECT, "http-proxy": HTTP, "dns-proxy": DNS, "http-and-dns": BOTH}
MULTUS = {"interface": {"provider": "multus", "multus": {"create": True}}, "sysctls": FORWARDING}
NAME = ObjectName("egress", "db-egress-router")
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"


def spec_of(kind: str, values: Mapping[str, object]) -> Json:
    found: Json = json.loads(json.dumps(the(kind, values)))["spec"]
    return found


def kinds(values: Mapping[str, object]) -> set[str]:
    return {str(each["kind"]) for each in rendered(values)}


def keeper(values: Mapping[str, object]) -> Json:
    """Return the container that keeps the fence: the one that runs `setup` and stays."""
    every = (*containers(values, "initContainers"), *containers(values))
    (found,) = [
        each
        for each in every
        if environment(each).get("EGRESS_ROUTER_MODE", "network") != "network"
        and "EGRESS_STANDBY" in environment(each)
    ]
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize("more", [ON, WITH_POLICY, {**ON, **EVERYTHING}, {**ON, **MULTUS}])
def test_every_object_of_a_pair_fits_the_kubernetes_schemas(mode: str, more: dict[str, object]) -> None:
    for document in rendered({**MODES[mode], **more}):
        if "coreos.com" not in str(document["apiVersion"]) and "cni.cncf.io" not in str(
            document["apiVersion"]
        ):
            kubernetes_validate.validate(document, KUBERNETES[1], strict=True)


def test_the_oldest_kubernetes_takes_a_redirecting_pair() -> None:
    for document in rendered({**REDIRECT, **ON}):
        kubernetes_validate.validate(document, KUBERNETES[0], strict=True)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_one_replica_and_none_of_its_objects_are_the_default(mode: str) -> None:
    assert spec_of("Deployment", MODES[mode])["replicas"] == 1
    assert not kinds(MODES[mode]) & {"Lease", "EndpointSlice", "Role", "RoleBinding"}
    assert "EGRESS_STANDBY" not in json.dumps(rendered(MODES[mode]))
    assert "selector" in spec_of("Service", MODES[mode])


@pytest.mark.parametrize("mode", sorted(MODES))
def test_two_pods_stand_on_two_nodes_and_are_replaced_one_at_a_time(mode: str) -> None:
    theirs = {"labelSelector": {"matchLabels": {"a": "b"}}, "topologyKey": "zone"}
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [theirs]}}
    values = {**MODES[mode], **ON, "affinity": affinity}
    spec = spec_of("Deployment", values)
    assert spec["replicas"] == 2
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
    }
    assert spec["minReadySeconds"] > 2  # a standby needs two seconds
    anti = spec["template"]["spec"]["affinity"]["podAntiAffinity"]
    apart = anti["requiredDuringSchedulingIgnoredDuringExecution"]
    own = {
        "labelSelector": {"matchLabels": spec["selector"]["matchLabels"]},
        "topologyKey": "kubernetes.io/hostname",
    }
    assert apart == [theirs, own]
    budget = spec_of("PodDisruptionBudget", values)
    assert budget == {"maxUnavailable": 1, "selector": spec["selector"]}


@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize("more", [ON, {**ON, **MULTUS}])
def test_the_container_that_keeps_the_fence_stays_and_is_not_privileged(
    mode: str, more: dict[str, object]
) -> None:
    values = {**MODES[mode], **more}
    container = keeper(values)
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}
    assert "privileged" not in container["securityContext"]
    assert "node-namespaces" not in {each["name"] for each in container["volumeMounts"]}
    if mode == "redirect":
        assert environment(container)["EGRESS_ROUTER_MODE"] == "legacy"
        return
    assert container["restartPolicy"] == "Always"
    assert container["startupProbe"]["exec"]
    # The proxy starts after it, and needs no privilege.
    for proxy in containers(values):
        assert is_restricted(json.loads(json.dumps(proxy["securityContext"])))
        assert "EGRESS_STANDBY" not in environment(proxy)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_what_makes_the_interface_puts_the_fence_up_and_ends(mode: str) -> None:
    first, *_ = containers({**MODES[mode], **ON}, "initContainers")
    settings = read_setup(environment(first))
    assert "restartPolicy" not in first
    assert (settings.mode.value, settings.standby is not None) == ("network", True)
    assert settings.standby is not None
    assert (settings.standby.lease, settings.standby.service) == (None, None)
    names = [each["name"] for each in containers({**MODES[mode], **ON, **MULTUS}, "initContainers")]
    assert names == ([] if mode == "redirect" else ["setup"])


@pytest.mark.parametrize("mode", sorted(MODES))
def test_the_program_reads_what_the_chart_says_of_the_pair(mode: str) -> None:
    values = {**MODES[mode], "standby": {"enabled": True, "port": 7000}}
    standby = read_setup(environment(keeper(values))).standby
    assert standby is not None
    assert (standby.lease, standby.service, standby.port) == (NAME, NAME, 7000)
    alone = {**MODES[mode], "standby": {"enabled": True, "lease": False, "service": False}}
    standby = read_setup(environment(keeper(alone))).standby
    assert standby is not None
    assert (standby.lease, standby.service, standby.port) == (None, None, 9798)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_only_the_container_that_keeps_the_fence_has_the_token(mode: str) -> None:
    values = {**MODES[mode], **ON}
    pod = spec_of("Deployment", values)["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    every = [*containers(values, "initContainers"), *containers(values)]
    mounts = {str(each["name"]): json.loads(json.dumps(each.get("volumeMounts", []))) for each in every}
    having = [name for name, of in mounts.items() if TOKEN in {each["mountPath"] for each in of}]
    assert having == [keeper(values)["name"]]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "standby-token"]
    files = [
        *[source["serviceAccountToken"]["path"] for source in volume["projected"]["sources"][:1]],
        *[each["path"] for each in volume["projected"]["sources"][1]["configMap"]["items"]],
    ]
    assert files == ["token", "ca.crt"]
    without = {**MODES[mode], "standby": {"enabled": True, "lease": False, "service": False}}
    assert TOKEN not in json.dumps(rendered(without))


def test_the_role_names_two_objects_and_nothing_else() -> None:
    values = {**REDIRECT, **ON}
    role, binding = json.loads(json.dumps([the("Role", values), the("RoleBinding", values)]))
    granted = [(rule["resources"], rule["resourceNames"], rule["verbs"]) for rule in role["rules"]]
    assert granted == [
        (["leases"], [NAME.name], ["get", "patch"]),
        (["endpointslices"], [NAME.name], ["get", "patch"]),
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    account = spec_of("Deployment", values)["template"]["spec"]["serviceAccountName"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "egress"}]
    for kind in ("Lease", "EndpointSlice"):
        metadata = json.loads(json.dumps(the(kind, values)))["metadata"]
        assert (metadata["namespace"], metadata["name"]) == (NAME.namespace, NAME.name)
    assert "spec" not in the("Lease", values)  # what the pods write is no part of the release
    lease = {**REDIRECT, "standby": {"enabled": True, "service": False}}
    (rule,) = json.loads(json.dumps(the("Role", lease)))["rules"]
    assert rule["resources"] == ["leases"]
    neither = {**REDIRECT, "standby": {"enabled": True, "lease": False, "service": False}}
    assert not kinds(neither) & {"Lease", "EndpointSlice", "Role", "RoleBinding"}


@pytest.mark.parametrize("mode", sorted(MODES))
def test_the_service_follows_the_slice(mode: str) -> None:
    values = {**MODES[mode], **ON}
    service, found = spec_of("Service", values), json.loads(json.dumps(the("EndpointSlice", values)))
    assert "selector" not in service
    assert found["metadata"]["labels"]["kubernetes.io/service-name"] == NAME.name
    assert (found["addressType"], found["endpoints"]) == ("IPv4", [])
    assert found["ports"] == service["ports"]
    assert (service["ipFamilyPolicy"], service["ipFamilies"]) == ("SingleStack", ["IPv4"])


def readiness(values: Mapping[str, object]) -> set[str]:
    return {each["readinessProbe"]["httpGet"]["path"] for each in json.loads(json.dumps(containers(values)))}


@pytest.mark.parametrize("mode", sorted(MODES))
def test_a_rollout_never_waits_for_a_standby_to_become_active(mode: str) -> None:
    # A rollout goes on when the new pod is ready. The pod that stands by must count as ready, or it never ends.
    assert readiness({**MODES[mode], **ON}) == {READY_OR_STANDBY}
    # A Service with a selector must not have the standby; then both pods are replaced at once.
    values = {**MODES[mode], "standby": {"enabled": True, "service": False}}
    assert readiness(values) == {"/readyz"}
    assert spec_of("Deployment", values)["strategy"] == {"type": "Recreate"}
    assert "selector" in spec_of("Service", values)
    # A disruption budget would block the drain of the active pod's node for ever; it is made only on request.
    assert ("PodDisruptionBudget" in kinds(values)) is ("podDisruptionBudget" in MODES[mode])
    assert readiness(MODES[mode]) == {"/readyz"}


def test_the_pods_may_hear_each_other() -> None:
    values = {**HTTP, "standby": {"enabled": True, "port": 7000}, "networkPolicy": {"enabled": True}}
    (clients, allowed) = ingress(values)[1]
    pods = spec_of("Deployment", values)["selector"]
    assert (clients, allowed) == ([{"podSelector": pods}], [("UDP", 7000, 7000)])


def test_the_admission_policy_is_about_the_account_of_the_pods() -> None:
    policy = spec_of("ValidatingAdmissionPolicy", {**HTTP, **WITH_POLICY})
    (condition,) = policy["matchConditions"]
    assert '"system:serviceaccount:egress:db-egress-router"' in condition["expression"]
    assert "object.metadata.labels == oldObject.metadata.labels" in policy["validations"][0]["expression"]
    named = json.loads(json.dumps(the("ValidatingAdmissionPolicy", {**HTTP, **WITH_POLICY})))["metadata"]
    bound = spec_of("ValidatingAdmissionPolicyBinding", {**HTTP, **WITH_POLICY})
    assert bound == {"policyName": named["name"], "validationActions": ["Deny"]}
    assert "ValidatingAdmissionPolicy" not in kinds({**HTTP, **ON})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({**REDIRECT, **ON, "redirect": {"live": False}}, "set redirect.live: true"),
        ({**HTTP, **ON, "serviceAccount": {"create": False}}, "a service account of the router's own"),
        ({**HTTP, "standby": {"enabled": True, "port": 9797}}, "standby.port and admin.port are both 9797"),
        (
            {**REDIRECT, **ON, "destinations": "9790-9799 udp 203.0.113.28"},
            "destinations line 1: '9790-9799 udp 203.0.113.28': local port 9798 is that on which",
        ),
        (
            {**HTTP, "standby": {"enabled": True, "service": False, "admissionPolicy": True}},
            "standby.admissionPolicy is about the EndpointSlice",
        ),
        ({**REDIRECT, **DUAL, **ON}, "set standby.service: false for a dual-stack source"),
        ({**HTTP, **ON, "service": {"internalTrafficPolicy": "Local"}}, "internalTrafficPolicy is Local"),
        ({**HTTP, **ON, "service": {"ipFamilyPolicy": "RequireDualStack"}}, "addresses of one family"),
        ({**HTTP, **ON, "setup": {"env": {"EGRESS_STANDBY_PORT": "1"}}}, "use the value standby.port"),
        ({**HTTP, "standby": {"enable": True}}, "enable"),
    ],
)
def test_what_cannot_work_with_two_pods_is_refused_in_words(values: dict[str, object], words: str) -> None:
    with pytest.raises(HelmError) as caught:
        rendered(values)
    assert words in str(caught.value)


def test_the_notes_say_how_to_see_which_one_is_active() -> None:
    assert "kubectl -n egress get endpointslice db-egress-router" in notes({**HTTP, **ON})
    assert "standby" not in notes(HTTP)


def test_each_of_several_routers_is_a_pair_of_its_own() -> None:
    of = {name: {"source": f"192.168.12.{last}/24"} for name, last in (("bank", 99), ("shop", 98))}
    values = {"gateway": "192.168.12.1", "mode": "http-proxy", "destinations": "*", "routers": of, **ON}
    documents = json.loads(json.dumps(rendered(values)))
    leases = [each["metadata"]["name"] for each in documents if each["kind"] == "Lease"]
    assert leases == ["db-egress-router-bank", "db-egress-router-shop"]
    named = [(each["kind"], each["metadata"]["name"]) for each in documents]
    assert len(set(named)) == len(named)
