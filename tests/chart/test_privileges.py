"""What each container may do, and that it asks for no more."""

from __future__ import annotations

import json

import pytest

from egress_router.settings.setup import read_setup
from tests.chart.charting import (
    DNS,
    FORWARDING,
    HTTP,
    MATRIX,
    REDIRECT,
    containers,
    environment,
    is_restricted,
    the,
)


@pytest.mark.parametrize("values", [HTTP, DNS])
def test_proxies_run_without_any_privilege(values: dict[str, object]) -> None:
    (proxy,) = containers(values)
    context = json.loads(json.dumps(proxy["securityContext"]))
    assert context["runAsNonRoot"] is True
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert "runAsUser" not in context  # OpenShift's restricted SCC chooses the user


@pytest.mark.parametrize("provider", ["okd", "existing"])
def test_setup_is_privileged_only_where_it_makes_the_interface(provider: str) -> None:
    (made,) = containers(HTTP, "initContainers")
    assert json.loads(json.dumps(made["securityContext"]))["privileged"] is True
    (given,) = containers({**HTTP, "interface": {"provider": provider}}, "initContainers")
    assert_network_administrator(given)


def assert_network_administrator(container: dict[str, object]) -> None:
    context = json.loads(json.dumps(container["securityContext"]))
    assert "privileged" not in context
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}


@pytest.mark.parametrize(
    "more", [{}, {"interface": {"provider": "okd"}, "setup": {"privileged": True}, "sysctls": FORWARDING}]
)
def test_a_router_that_stays_is_not_privileged(more: dict[str, object]) -> None:
    (first,) = containers({**REDIRECT, **more}, "initContainers")
    assert json.loads(json.dumps(first["securityContext"]))["privileged"] is True
    assert environment(first)["EGRESS_ROUTER_MODE"] == "network"  # rules with names are refused in mode init
    assert "EGRESS_DESTINATION_FILE" not in environment(first)
    (stays,) = containers({**REDIRECT, **more})
    assert_network_administrator(stays)
    assert environment(stays)["EGRESS_ROUTER_MODE"] == "legacy"


def test_a_router_that_ends_redirects_before_it_does() -> None:
    (first,) = containers(MATRIX["redirect-init"], "initContainers")
    assert environment(first)["EGRESS_ROUTER_MODE"] == "init"
    assert "destinations" in {each["name"] for each in json.loads(json.dumps(first["volumeMounts"]))}


def test_where_nothing_needs_privilege_there_is_no_container_before_the_router() -> None:
    assert not containers(MATRIX["existing"], "initContainers")


@pytest.mark.parametrize("name", list(MATRIX))
def test_only_a_container_that_ends_has_anything_of_the_node(name: str) -> None:
    values = MATRIX[name]
    pod = json.loads(json.dumps(the("Deployment", values)))["spec"]["template"]["spec"]
    assert not {"hostPID", "hostNetwork", "hostIPC"} & pod.keys()
    of_the_node = {volume["name"] for volume in pod["volumes"] if "hostPath" in volume}
    makes_interface = "interface" not in values
    assert of_the_node == ({"node-namespaces"} if makes_interface else set())
    for container in containers(values):
        mounts = json.loads(json.dumps(container.get("volumeMounts", [])))
        assert not {mount["name"] for mount in mounts} & of_the_node
        assert "EGRESS_PARENT_NETNS" not in environment(container) if "env" in container else True
    for container in containers(values, "initContainers") if makes_interface else []:
        mounts = {each["name"]: each for each in json.loads(json.dumps(container["volumeMounts"]))}
        assert mounts["node-namespaces"]["readOnly"] is True
        path = mounts["node-namespaces"]["mountPath"]
        assert environment(container)["EGRESS_PARENT_NETNS"] == f"{path}/net"
        assert str(read_setup(environment(container)).parent_netns) == f"{path}/net"


@pytest.mark.parametrize("mode", [REDIRECT, HTTP, DNS])
def test_the_tests_pod_passes_the_level_restricted(mode: dict[str, object]) -> None:
    spec = json.loads(json.dumps(the("Pod", mode)))["spec"]
    assert "volumes" not in spec
    (container,) = spec["containers"]
    context = container["securityContext"]
    assert is_restricted(context)
    # The router's image names root as its user: without another one here the kubelet refuses to start it.
    assert ("runAsUser" in context) is ("mode" not in mode)


def test_what_runs_unprivileged_passes_the_level_restricted() -> None:
    for name in ("redirect-init", "http-proxy", "dns-proxy"):
        (stays,) = containers(MATRIX[name])
        assert is_restricted(json.loads(json.dumps(stays["securityContext"])))


def test_low_ports_are_open_to_a_forwarder_without_root() -> None:
    pod = json.loads(json.dumps(the("Deployment", DNS)))["spec"]["template"]["spec"]
    assert pod["securityContext"]["sysctls"] == [
        {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}
    ]


def test_a_sysctl_that_is_given_is_not_set_twice() -> None:
    own = [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"}]
    pod = json.loads(json.dumps(the("Deployment", {**DNS, "sysctls": own})))["spec"]["template"]["spec"]
    assert pod["securityContext"]["sysctls"] == own
