"""The chart, rendered by Helm's own library, held against the Kubernetes schemas and the program itself."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml
from helm_python.chart import Chart, lint
from helm_python.errors import HelmError

from egress_router.grammar.redirect import parse as parse_redirects
from egress_router.settings.catalogue import VARIABLES, names
from egress_router.settings.chart import chart_values
from egress_router.settings.dns_proxy import read_dns_proxy
from egress_router.settings.http_proxy import read_http_proxy
from egress_router.settings.setup import read_setup

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Json = dict[str, Any]
CHART = Path(__file__).parents[2] / "charts" / "egress-router"
PACKAGE = Path(__file__).parents[2] / "egress_router"
# The oldest that Chart.yaml admits, and the newest whose schemas are published.
KUBERNETES = ("1.25", kubernetes_validate.latest_version())

BASE: dict[str, object] = {"source": "192.168.12.99/24", "gateway": "192.168.12.1"}
REDIRECT = {**BASE, "destinations": "80 tcp 203.0.113.25\n53 udp 203.0.113.53 # names\n203.0.113.27\n"}
HTTP = {**BASE, "mode": "http-proxy", "destinations": "!*.bad.example.com\n*\n"}
DNS = {**BASE, "mode": "dns-proxy", "destinations": "# the bank\n80 203.0.113.25\n8443 db.example.com 443\n"}
DUAL = {"source": "192.168.12.99/24, 2001:db8::99/64", "gateway": "192.168.12.1, 2001:db8::1"}
FORWARDING = [{"name": "net.ipv4.ip_forward", "value": "1"}]
FORWARDING_6 = [{"name": "net.ipv6.conf.all.forwarding", "value": "1"}]
EVERYTHING = {
    "networkPolicy": {
        "enabled": True,
        "monitoringFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
    },
    "podDisruptionBudget": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboard": {"enabled": True},
    "nodeSelector": {"site": "springfield-1"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "sysctls": FORWARDING,
    "env": {"EGRESS_ACCESS_LOG": "1"},
    "clusterCidrs": "10.0.0.0/8",
}
MATRIX: dict[str, dict[str, object]] = {
    "redirect": REDIRECT,
    "redirect-init": {**REDIRECT, "redirect": {"live": False}},
    "http-proxy": HTTP,
    "dns-proxy": DNS,
    "redirect-everything": {**REDIRECT, **EVERYTHING},
    "http-everything": {**HTTP, **EVERYTHING},
    "okd": {**HTTP, "interface": {"provider": "okd"}},
    "multus": {**DNS, "interface": {"provider": "multus", "multus": {"create": True}, "parent": "eth1"}},
    "dns-everything": {**DNS, **EVERYTHING},
    "existing": {**REDIRECT, "interface": {"provider": "existing", "name": "net1"}, "sysctls": FORWARDING},
    "dual-stack": {
        **REDIRECT,
        **DUAL,
        **EVERYTHING,
        "destinations": "80 tcp 203.0.113.25\n80 tcp 2001:db8:1::25\n5000-5002 sctp 203.0.113.28\n2001:db8:1::27\n",
        "interface": {"provider": "existing"},
        "sysctls": FORWARDING + FORWARDING_6,
    },
    "existing-privileged": {
        **REDIRECT,
        "interface": {"provider": "existing"},
        "setup": {"privileged": True},
    },
    "http-and-dns": {
        **HTTP,
        **EVERYTHING,
        "also": {"mode": "dns-proxy", "destinations": "80 203.0.113.25\n"},
    },
    "existing-config-map": {
        **BASE,
        "existingConfigMap": {"name": "egress-routes"},
        "ports": [{"name": "https", "port": 443}],
    },
}


def rendered(values: Mapping[str, object]) -> list[dict[str, object]]:
    with Chart.load(CHART) as chart:
        files = chart.render(values=dict(values), name="db", namespace="egress")
    texts = [text for name, text in files.items() if not name.endswith("NOTES.txt")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def the(kind: str, values: Mapping[str, object]) -> dict[str, object]:
    return next(each for each in rendered(values) if each["kind"] == kind and not is_check(each))


def is_check(document: dict[str, object]) -> bool:
    """Whether an object is one of those that check the rules before anything is changed."""
    annotations = json.loads(json.dumps(document))["metadata"].get("annotations", {})
    return "pre-upgrade" in annotations.get("helm.sh/hook", "")


def containers(values: Mapping[str, object], which: str = "containers") -> list[dict[str, object]]:
    # Through JSON, so that the nested values have a type that can be written down.
    pod = json.loads(json.dumps(the("Deployment", values)))["spec"]["template"]["spec"]
    found: list[dict[str, object]] = pod.get(which, [])
    return found


def environment(container: dict[str, object]) -> dict[str, str]:
    pairs: list[dict[str, str]] = json.loads(json.dumps(container["env"]))
    return {pair["name"]: pair["value"] for pair in pairs}


def cases() -> Iterator[tuple[str, str]]:
    for name in MATRIX:
        for version in KUBERNETES:
            yield name, version


@pytest.mark.parametrize(("name", "version"), list(cases()))
def test_every_object_fits_the_kubernetes_schemas(name: str, version: str) -> None:
    documents = rendered(MATRIX[name])
    assert len(documents) >= 4
    for document in documents:
        if "coreos.com" in str(document["apiVersion"]) or "cni.cncf.io" in str(document["apiVersion"]):
            continue  # custom resources: Kubernetes has no schema for them
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("name", list(MATRIX))
def test_helm_lint_finds_nothing(name: str) -> None:
    report = lint(CHART, MATRIX[name], strict=True)
    assert not report.get("errors"), report


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "source: '': expected the address that the router claims, such as 192.168.12.99/24"),
        ({**REDIRECT, "mode": "socks"}, "mode"),
        ({**REDIRECT, "replicas": 2}, "replicas"),
        ({**REDIRECT, "source": "somewhere"}, "source: 'somewhere': expected the address"),
        ({**REDIRECT, "source": "999.1.1.1/99"}, "source: '999.1.1.1/99': expected the address"),
        ({**REDIRECT, "source": "192.168.12.99/33"}, "source: '192.168.12.99/33': expected the address"),
        ({**REDIRECT, "source": "192.168.12.99, 2001:db8::/129"}, "source: '2001:db8::/129': expected"),
        ({**REDIRECT, "gateway": ""}, "gateway: '': expected the next hop"),
        ({**REDIRECT, "gateway": "192.168.12.1/24"}, "gateway: '192.168.12.1/24': expected the next hop"),
        ({**REDIRECT, "interface": {"provider": "ovs"}}, "provider"),
        ({**REDIRECT, "admin": {"port": 80}}, "port"),
        (BASE, "no rules: give destinations, or existingConfigMap.name"),
        ({**REDIRECT, "existingConfigMap": {"name": "x"}}, "not both"),
        ({**REDIRECT, "interface": {"provider": "multus"}}, "name the network"),
        (
            {**HTTP, "interface": {"provider": "multus", "multus": {"create": True, "network": "ns/net"}}},
            "'ns/net' names a namespace",
        ),
        ({**BASE, "destinations": "203.0.113.27"}, "list them in ports"),
        ({**REDIRECT, "interface": {"provider": "okd"}}, 'give { name: net.ipv4.ip_forward, value: "1" }'),
        (
            {
                **REDIRECT,
                "interface": {"provider": "okd"},
                "sysctls": [{"name": "net.ipv4.ip_forward", "value": "0"}],
            },
            'give { name: net.ipv4.ip_forward, value: "1" }',
        ),
        (
            {**REDIRECT, **DUAL, "interface": {"provider": "okd"}, "sysctls": FORWARDING},
            'source 2001:db8::99/64: give { name: net.ipv6.conf.all.forwarding, value: "1" }',
        ),
        (
            {**REDIRECT, **DUAL, "interface": {"provider": "okd"}, "sysctls": FORWARDING_6},
            'source 192.168.12.99/24: give { name: net.ipv4.ip_forward, value: "1" }',
        ),
        ({**HTTP, "prometheusRule": {"enabled": True}}, "prometheusRule needs serviceMonitor"),
        ({**HTTP, "ports": [{"name": "a", "port": 1}]}, "has one port, which httpProxy.port names"),
        ({**HTTP, "httpProxy": {"port": 9797}}, "httpProxy.port and admin.port are both 9797"),
        ({**HTTP, "podAnnotations": {"a": 1}}, "at '/podAnnotations/a': got number, want string"),
        ({**HTTP, "nodeSelector": {"a": True}}, "at '/nodeSelector/a': got boolean, want string"),
        ({**HTTP, "serviceMonitor": {"labels": {"a": 1}}}, "labels/a': got number, want string"),
        ({**HTTP, "sysctls": [{"name": "a", "value": 1}]}, "at '/sysctls/0/value': got number, want string"),
        ({**HTTP, "images": {"httpProxy": {"digest": "latest"}}}, "at '/images/httpProxy/digest'"),
    ],
)
def test_wrong_values_are_refused_in_words(values: dict[str, object], words: str) -> None:
    with pytest.raises(HelmError) as caught:
        rendered(values)
    assert words in str(caught.value)


def service_ports(values: Mapping[str, object]) -> list[tuple[str, int, str]]:
    spec = json.loads(json.dumps(the("Service", values)))["spec"]
    return [(port["name"], port["port"], port["protocol"]) for port in spec["ports"]]


def test_ports_of_the_service_follow_the_destinations() -> None:
    assert service_ports(REDIRECT) == [("tcp-80", 80, "TCP"), ("udp-53", 53, "UDP")]
    assert service_ports(HTTP) == [("http-proxy", 8080, "TCP")]
    assert service_ports(DNS) == [("tcp-80", 80, "TCP"), ("tcp-8443", 8443, "TCP")]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("080 TCP 203.0.113.25", ["tcp-80"]),
        ("08080\tTcp\u00a0203.0.113.25\r", ["tcp-8080"]),
        ("53 tcp 203.0.113.53\n53 udp 203.0.113.53\n53 sctp 203.0.113.53", ["tcp-53", "udp-53", "sctp-53"]),
        ("80 tcp 203.0.113.25\n80 tcp 2001:db8::25", ["tcp-80"]),
        ("80-82 udp 203.0.113.28 # three\n81-83 udp 2001:db8::28", ["udp-80", "udp-81", "udp-82", "udp-83"]),
        ("5001-5100 sctp 203.0.113.28", [f"sctp-{port}" for port in range(5001, 5101)]),
        ("65535 tcp 203.0.113.25\n# 1 tcp 203.0.113.25\n\n203.0.113.27", ["tcp-65535"]),
        ("9797 udp 203.0.113.25", ["udp-9797"]),
    ],
)
def test_every_port_that_a_line_names_is_offered_once(lines: str, expected: list[str]) -> None:
    ports = service_ports({**BASE, "destinations": lines})
    assert [name for name, _, _ in ports] == expected
    assert all(re.fullmatch(r"[a-z][a-z0-9-]{0,13}[a-z0-9]", name) for name, _, _ in ports)
    assert [f"{protocol.lower()}-{port}" for _, port, protocol in ports] == expected
    redirects = parse_redirects("", lines).rules
    named = {(each.protocol.value, port) for each in redirects for port in range(each.first, each.last + 1)}
    assert {(protocol.lower(), port) for _, port, protocol in ports} == named


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("80 sctpp 203.0.113.25", "unknown protocol 'sctpp' (tcp, udp or sctp)"),
        ("0 tcp 203.0.113.25", "invalid port '0' (a number from 1 to 65535)"),
        ("65536 tcp 203.0.113.25", "invalid port '65536' (a number from 1 to 65535)"),
        ("99999999999999999999 tcp 203.0.113.25", "invalid port '99999999999999999999'"),
        ("http tcp 203.0.113.25", "invalid port 'http'"),
        ("80- tcp 203.0.113.25", "invalid port ''"),
        ("80-90-99 tcp 203.0.113.25", "invalid port '90-99'"),
        ("90-80 tcp 203.0.113.25", "ends before it begins"),
        ("80 203.0.113.25", "expected PORT PROTOCOL DESTINATION [REMOTE_PORT]"),
        ("5000-5100 tcp 203.0.113.28", "over 100 ports is too wide for a Service; list the ports"),
        ("9797 tcp 203.0.113.25", "local port 9797 is that of the administration endpoint; give admin.port"),
        ("9000-9999 TCP 203.0.113.25", "local port 9797 is that of the administration endpoint"),
    ],
)
def test_a_line_whose_ports_cannot_be_offered_is_named(line: str, words: str) -> None:
    with pytest.raises(HelmError) as caught:
        rendered({**BASE, "destinations": f"# first\n  {line}   # remark\n"})
    assert f"destinations line 2: '{line}': " in str(caught.value)
    assert words in str(caught.value)


def test_a_name_needs_a_router_that_stays() -> None:
    lines = (
        "443 tcp db.example.com\n8443 tcp DB.example.com 443 from *\n80 tcp 2001:db8::25\n81 tcp 203.0.113.25"
    )
    assert len(service_ports({**BASE, "destinations": lines})) == 4
    with pytest.raises(
        HelmError, match=r"line 1: '443 tcp db\.example\.com': a name needs redirect\.live: true"
    ):
        rendered({**BASE, "destinations": lines, "redirect": {"live": False}})
    by_address = "\n".join(lines.splitlines()[2:])
    assert len(service_ports({**BASE, "destinations": by_address, "redirect": {"live": False}})) == 2


def test_a_wide_range_needs_the_ports_that_the_service_shall_offer() -> None:
    values = {**BASE, "destinations": "5000-5100 tcp 203.0.113.28"}
    ports = [{"name": "first", "port": 5000}]
    assert service_ports({**values, "ports": ports}) == [("first", 5000, "TCP")]
    with pytest.raises(HelmError, match="local port 9797"):
        rendered({**BASE, "destinations": "9000-9999 tcp 203.0.113.28", "ports": ports})


def test_a_line_of_the_forwarder_may_not_take_the_administration_port() -> None:
    with pytest.raises(HelmError, match="local port 9797 is that of the administration endpoint"):
        rendered({**DNS, "destinations": "9797 db.example.com 443"})
    with pytest.raises(HelmError, match=r"line 1: '80-90 db\.example\.com': invalid port '80-90'"):
        rendered({**DNS, "destinations": "80-90 db.example.com"})


@pytest.mark.parametrize(
    "text",
    [
        "   80 tcp 203.0.113.25\n8080 tcp 203.0.113.26 80\n",
        "\n\n80 tcp 203.0.113.25",
        "80 tcp 203.0.113.25\r\n# Windows\r\n",
        '80 tcp 203.0.113.25 # a\u2028b \u0085 \U0001f600 "quoted" \\ {{ .Values }}\n\n',
        "\t80 tcp 203.0.113.25\n# ---\n",
    ],
)
def test_the_rules_reach_the_config_map_unchanged(text: str) -> None:
    assert the("ConfigMap", {**BASE, "destinations": text})["data"] == {"destination": text}


def test_a_service_is_dual_stack_where_the_router_is() -> None:
    def policy(values: Mapping[str, object]) -> object:
        return json.loads(json.dumps(the("Service", values)))["spec"].get("ipFamilyPolicy")

    assert policy({**HTTP, **DUAL}) == "PreferDualStack"
    assert policy(HTTP) is None


def selectors(thing: object) -> Iterator[dict[str, str]]:
    """What chooses pods: labels of a Service, matchLabels of the others; peers of a policy are none."""
    spec = json.loads(json.dumps(thing)).get("spec", {})
    for name in ("selector", "podSelector"):
        if spec.get(name):
            yield spec[name].get("matchLabels", spec[name])


@pytest.mark.parametrize("mode", [REDIRECT, HTTP, DNS])
def test_nothing_takes_the_tests_pod_for_the_router(mode: dict[str, object]) -> None:
    secrets = [{"name": "registry"}]
    images = {"pullSecrets": secrets, "pullPolicy": "Always"}
    sender = {"namespaceSelector": {"matchLabels": {"team": "bank"}}}
    values = {**mode, **EVERYTHING, "images": images, "networkPolicy": {"enabled": True, "from": [sender]}}
    pod = json.loads(json.dumps(the("Pod", values)))
    labels = pod["metadata"]["labels"].items()
    found = [selector for each in rendered(values) for selector in selectors(each)]
    assert len(found) == 6  # Deployment, two Services, NetworkPolicy, disruption budget, ServiceMonitor
    assert not [selector for selector in found if selector.items() <= labels]

    router = json.loads(json.dumps(the("Deployment", values)))["spec"]["template"]["spec"]
    assert pod["spec"]["imagePullSecrets"] == router["imagePullSecrets"] == secrets
    assert pod["spec"]["serviceAccountName"] == router["serviceAccountName"]
    (test,), (stays,) = pod["spec"]["containers"], router["containers"]
    assert (test["image"], test["imagePullPolicy"]) == (stays["image"], "Always")

    clients = json.loads(json.dumps(the("NetworkPolicy", values)))["spec"]["ingress"][0]["from"]
    assert sender in clients
    (own,) = [each["podSelector"]["matchLabels"] for each in clients if "podSelector" in each]
    assert own.items() <= labels


def test_there_is_never_a_second_pod_and_a_dead_node_is_left_in_seconds() -> None:
    spec = json.loads(json.dumps(the("Deployment", HTTP)))["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}
    tolerations = spec["template"]["spec"]["tolerations"]
    assert {toleration["tolerationSeconds"] for toleration in tolerations} == {10}


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


def every_container(values: Mapping[str, object]) -> Iterator[Json]:
    """Every container of every pod that the chart makes, that of the test too."""
    for document in json.loads(json.dumps(rendered(values))):
        if document["kind"] in {"Deployment", "Pod", "Job"}:
            pod = document["spec"].get("template", document)["spec"]
            yield from (*pod.get("initContainers", ()), *pod["containers"])


@pytest.mark.parametrize("name", list(MATRIX))
def test_every_container_says_what_it_needs_and_why_it_failed(name: str) -> None:
    for container in every_container(MATRIX[name]):
        assert container["resources"]["limits"]["memory"], container["name"]
        assert container["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, container["name"]
        assert container["terminationMessagePolicy"] == "FallbackToLogsOnError", container["name"]


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


def is_restricted(context: Json) -> bool:
    """What Pod Security's level `restricted` asks of a container's own security context."""
    return (
        context.get("runAsNonRoot") is True
        and context.get("runAsUser") != 0
        and context.get("allowPrivilegeEscalation") is False
        and context.get("capabilities") == {"drop": ["ALL"]}
        and context.get("seccompProfile") == {"type": "RuntimeDefault"}
        and "privileged" not in context
    )


@pytest.mark.parametrize("mode", [REDIRECT, HTTP, DNS])
def test_the_tests_pod_passes_the_level_restricted(mode: dict[str, object]) -> None:
    spec = json.loads(json.dumps(the("Pod", mode)))["spec"]
    assert "volumes" not in spec
    (container,) = spec["containers"]
    context = container["securityContext"]
    assert is_restricted(context)
    # The router's image names root as its user, so another one must be named, or the kubelet refuses to start it.
    assert ("runAsUser" in context) is ("mode" not in mode)


def test_what_runs_unprivileged_passes_the_level_restricted() -> None:
    for name in ("redirect-init", "http-proxy", "dns-proxy"):
        (stays,) = containers(MATRIX[name])
        assert is_restricted(json.loads(json.dumps(stays["securityContext"])))


@pytest.mark.parametrize("values", [REDIRECT, HTTP, DNS])
def test_a_replacement_waits_for_nothing_longer_than_it_must(values: dict[str, object]) -> None:
    pod = json.loads(json.dumps(the("Deployment", values)))["spec"]["template"]["spec"]
    (stays,) = pod["containers"]
    assert environment(stays)["EGRESS_DRAIN_SECONDS"] == "5"
    assert pod["terminationGracePeriodSeconds"] == 10
    assert stays["startupProbe"]["periodSeconds"] == stays["readinessProbe"]["periodSeconds"] == 1
    assert stays["livenessProbe"]["terminationGracePeriodSeconds"] == 2


def test_setup_waits_in_place_for_the_address_and_no_probe_ends_it_meanwhile() -> None:
    (init,) = containers(HTTP, "initContainers")
    assert read_setup(environment(init)).claim_timeout == 600
    (stays,) = containers(REDIRECT)
    assert read_setup(environment(stays)).claim_timeout == 600
    probe = json.loads(json.dumps(stays["startupProbe"]))
    assert probe["periodSeconds"] * probe["failureThreshold"] > 600
    (proxy,) = containers(HTTP)
    assert json.loads(json.dumps(proxy["startupProbe"]))["failureThreshold"] == 60


@pytest.mark.parametrize("values", [REDIRECT, HTTP, DNS, MATRIX["redirect-everything"]])
def test_errors_can_name_the_charts_value_of_every_variable(values: dict[str, object]) -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    for container in containers(values) + containers(values, "initContainers"):
        variables = environment(container)
        named = chart_values(variables)
        added = set(json.loads(json.dumps(values.get("env", {}))))
        assert named.keys() == variables.keys() - {"EGRESS_CHART_VALUES"} - added
        for value in named.values():
            found = defaults
            for key in value.split("."):
                found = found[key]  # KeyError: the chart has no such value


def test_low_ports_are_open_to_a_forwarder_without_root() -> None:
    pod = json.loads(json.dumps(the("Deployment", DNS)))["spec"]["template"]["spec"]
    assert pod["securityContext"]["sysctls"] == [
        {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}
    ]


def test_a_sysctl_that_is_given_is_not_set_twice() -> None:
    own = [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"}]
    pod = json.loads(json.dumps(the("Deployment", {**DNS, "sysctls": own})))["spec"]["template"]["spec"]
    assert pod["securityContext"]["sysctls"] == own


def test_large_numbers_stay_whole_numbers() -> None:
    values = {**DNS, "nodeFailureSeconds": 2_592_000, "drainSeconds": 1_000_000}
    pod = json.loads(json.dumps(the("Deployment", values)))["spec"]["template"]["spec"]
    # As text: to Python 2592000.0 is the same number, to Kubernetes it is none.
    assert [str(each["tolerationSeconds"]) for each in pod["tolerations"]] == ["2592000"] * 2
    assert pod["terminationGracePeriodSeconds"] == 1_000_005
    (proxy,) = containers(values)
    assert environment(proxy)["EGRESS_DRAIN_SECONDS"] == "1000000"


def test_images_are_those_that_the_build_names() -> None:
    script = (CHART.parents[1] / "scripts" / "build-images").read_text()
    (registry,) = re.findall(r"^registry=\$\{REGISTRY:-(.*)\}$", script, re.MULTILINE)
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    named = {str(each["image"]) for values in (REDIRECT, HTTP, DNS) for each in every_container(values)}
    expected = {f"{registry}/egress-{image}:{version}" for image in ("router", "http-proxy", "dns-proxy")}
    assert named == expected


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ({"images": {"registry": "r.example/team"}}, "r.example/team/egress-http-proxy"),
        ({"images": {"registry": "r.example:5000/"}}, "r.example:5000/egress-http-proxy"),
        ({"images": {"registry": ""}}, "egress-http-proxy"),
        ({"global": {"imageRegistry": "g.example"}}, "g.example/egress-http-proxy"),
        ({"images": {"httpProxy": {"repository": "own.example/p"}}}, "own.example/p"),
        ({"images": {"httpProxy": {"repository": "localhost/p"}}}, "localhost/p"),
        ({"images": {"httpProxy": {"repository": "team/p"}}}, "localhost/team/p"),
    ],
)
def test_a_registry_stands_before_what_names_none(values: dict[str, object], image: str) -> None:
    (proxy,) = containers({**HTTP, **values})
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert proxy["image"] == f"{image}:{version}"


def test_an_image_may_be_named_by_its_digest() -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    (proxy,) = containers({**HTTP, "images": {"httpProxy": {"repository": "r.example/p", "digest": digest}}})
    assert proxy["image"] == f"r.example/p@{digest}"


@pytest.mark.parametrize("live", [True, False])
def test_variables_reach_the_container_that_runs_setup(live: bool) -> None:
    setup = {"claimTimeoutSeconds": 60, "env": {"EGRESS_NAT_BACKEND": "iptables"}}
    more = {"env": {"EGRESS_LOG_FORMAT": "json"}, "setup": setup}
    values = {**MATRIX["existing"], **more, "redirect": {"live": live}}
    (runs_setup,) = containers(values, "containers" if live else "initContainers")
    settings = read_setup(environment(runs_setup))
    assert (settings.claim_timeout, settings.nat_backend) == (60, "iptables")
    assert settings.runtime.log_format == ("json" if live else "text")
    (before_proxy,) = containers({**HTTP, **more}, "initContainers")
    assert environment(before_proxy)["EGRESS_NAT_BACKEND"] == "iptables"
    (proxy,) = containers({**HTTP, **more})
    assert not {"EGRESS_NAT_BACKEND", "EGRESS_CLAIM_TIMEOUT"} & environment(proxy).keys()


@pytest.mark.parametrize("where", ["env", "setup.env"])
def test_variables_that_the_chart_sets_are_refused_with_the_value_to_use(where: str) -> None:
    debugging = {**DNS, "dnsProxy": {"debug": True}}
    reporting = {**HTTP, "httpProxy": {"reportOnly": True, "transparentPorts": "443"}}
    parent = {**REDIRECT, "clusterCidrs": "10.0.0.0/8", "interface": {"parent": "eth1"}}
    everything = [debugging, reporting, parent]
    every = [
        each for values in everything for each in containers(values) + containers(values, "initContainers")
    ]
    names = {name for each in every for name in environment(each)}
    assert len(names) == 21
    for name in names | {name.removesuffix("_FILE") for name in names}:
        given: dict[str, object] = {name: "x"}
        with pytest.raises(HelmError) as caught:
            rendered({**HTTP, **({"env": given} if where == "env" else {"setup": {"env": given}})})
        remedy = "leave it out" if name == "EGRESS_CHART_VALUES" else "use the value "
        assert f"{where}: the chart sets {name} itself; {remedy}" in str(caught.value)


def test_transparent_ports_are_open_everywhere() -> None:
    values = {**HTTP, "httpProxy": {"transparentPorts": "443, 8443:444", "sni": "enforce"}, **EVERYTHING}
    (proxy,) = containers(values)
    settings = read_http_proxy(environment(proxy))
    assert settings.transparent_ports == ((443, 443), (8443, 444))
    assert settings.sni == "enforce"
    assert [port for _, port, _ in service_ports(values)] == [8080, 443, 8443]
    # Without root, low ports have to be opened.
    spec = the("Deployment", values)["spec"]
    assert "ip_unprivileged_port_start" in json.dumps(spec)
    policy = json.dumps(the("NetworkPolicy", values)["spec"])
    assert '"port": 443' in policy
    assert '"port": 8443' in policy


@pytest.mark.parametrize("ports", ["0x1bb", "443;80", "443:"])
def test_transparent_ports_that_are_none_are_refused(ports: str) -> None:
    with pytest.raises(HelmError):
        rendered({**HTTP, "httpProxy": {"transparentPorts": ports}})


@pytest.mark.parametrize("values", [REDIRECT, HTTP, DNS])
def test_alerts_and_dashboard_name_metrics_that_the_program_has(values: dict[str, object]) -> None:
    documents = rendered({**values, **EVERYTHING})
    texts = [
        yaml.safe_dump(document, width=10_000)
        for document in documents
        if document["kind"] in {"PrometheusRule", "ConfigMap"}
    ]
    named = set(re.findall(r"egress_router_([a-z_]+)", "\n".join(texts)))
    sources = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    assert {"rules_valid", "build_info", "bytes_total"} <= named
    assert not {name for name in named if f'"{name.removesuffix("_bucket")}"' not in sources}


def test_the_dashboard_is_json_with_a_query_in_every_panel() -> None:
    maps = [each for each in rendered({**HTTP, **EVERYTHING}) if each["kind"] == "ConfigMap"]
    (text,) = [
        data for each in maps for name, data in json.loads(json.dumps(each))["data"].items() if "json" in name
    ]
    panels = json.loads(text)["panels"]
    assert panels
    assert all(target["expr"] for panel in panels for target in panel["targets"])


Allowed = list[tuple[str, int, int]]


def ingress(values: Mapping[str, object]) -> list[tuple[list[object], Allowed]]:
    """Who may connect, and to which ports (protocol, first, last)."""
    policy = json.loads(json.dumps(the("NetworkPolicy", values)))
    return [
        (
            rule["from"],
            [(port["protocol"], port["port"], port.get("endPort", port["port"])) for port in rule["ports"]],
        )
        for rule in policy["spec"]["ingress"]
    ]


EXTERNAL = {**MATRIX["existing-config-map"], **EVERYTHING, "ports": [{"name": "https", "port": 443}]}


@pytest.mark.parametrize(
    "values", [{**REDIRECT, **EVERYTHING}, {**HTTP, **EVERYTHING}, {**DNS, **EVERYTHING}, EXTERNAL]
)
def test_prometheus_may_connect_to_the_administration_port_alone(values: dict[str, object]) -> None:
    (clients, theirs), (monitoring, its) = ingress(values)
    assert clients == [{"podSelector": {}}]
    assert not [each for each in theirs if each[0] == "TCP" and each[1] <= 9797 <= each[2]]
    assert monitoring == [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
    assert its == [("TCP", 9797, 9797)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (HTTP, [("TCP", 8080, 8080)]),
        (DNS, [("TCP", 80, 80), ("TCP", 8443, 8443)]),
        ({**BASE, "destinations": "5000-5500 tcp 1.2.3.4"}, [("TCP", 5000, 5500)]),
        (
            {**BASE, "destinations": "53 sctp 1.2.3.4\n1.2.3.4\n2001:db8::1"},
            [("SCTP", 53, 53), ("TCP", 1, 9796), ("TCP", 9798, 65535), ("UDP", 1, 65535)],
        ),
        (
            {**BASE, "destinations": "1.2.3.4", "admin": {"port": 65535}},
            [("TCP", 1, 65534), ("UDP", 1, 65535)],
        ),
        (MATRIX["existing-config-map"], [("TCP", 443, 443)]),
    ],
)
def test_clients_may_connect_to_what_the_router_serves(values: dict[str, object], expected: Allowed) -> None:
    # What the Service offers is another matter where the rules are known.
    offered = {} if values is HTTP else {"ports": [{"name": "https", "port": 443}]}
    ((_, allowed),) = ingress({**values, **offered, "networkPolicy": {"enabled": True}})
    assert allowed == expected


MONITORED = [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]


@pytest.mark.parametrize(
    ("values", "is_guarded"),
    [
        (HTTP, True),
        (DNS, True),
        ({**BASE, "destinations": "80 tcp 203.0.113.25"}, True),
        (REDIRECT, False),  # a fallback takes what no policy can name
        (MATRIX["existing-config-map"], False),
        ({**HTTP, "destinations": "", "existingConfigMap": {"name": "x"}}, True),
        ({**HTTP, "serviceMonitor": {"enabled": True}}, False),
        ({**HTTP, "podAnnotations": {"prometheus.io/scrape": "true"}}, False),
        ({**HTTP, "serviceMonitor": {"enabled": True}, "networkPolicy": {"monitoringFrom": MONITORED}}, True),
        ({**HTTP, "networkPolicy": {"enabled": False}}, False),
        ({**REDIRECT, "networkPolicy": {"enabled": True}}, True),
    ],
)
def test_a_policy_is_there_where_it_takes_nothing_from_anybody_or_the_notes_tell(
    values: dict[str, object], is_guarded: bool
) -> None:
    kinds = {each["kind"] for each in rendered(values)}
    assert ("NetworkPolicy" in kinds) is is_guarded
    assert ("No NetworkPolicy guards the administration port 9797" in notes(values)) is not is_guarded


def test_the_policy_that_is_there_by_default_keeps_nobody_from_the_router() -> None:
    (rule,) = json.loads(json.dumps(the("NetworkPolicy", HTTP)))["spec"]["ingress"]
    assert rule == {"ports": [{"protocol": "TCP", "port": 8080}]}
    chosen = {"networkPolicy": {"from": [{"podSelector": {"matchLabels": {"a": "b"}}}]}}
    ((clients, _),) = ingress({**HTTP, **chosen})
    assert {"podSelector": {"matchLabels": {"a": "b"}}} in clients


def notes(values: Mapping[str, object]) -> str:
    with Chart.load(CHART) as chart:
        files = chart.render(values=dict(values), name="db", namespace="egress")
    text: str = next(text for name, text in files.items() if name.endswith("NOTES.txt"))
    return text


def test_the_readme_holds_the_table_that_the_comments_give() -> None:
    readme, schema = CHART / "README.md", CHART / "values.schema.json"
    before, schema_before = readme.read_text(), schema.read_text()
    try:
        subprocess.run([sys.executable, CHART.parents[1] / "scripts" / "chart-tables"], check=True)
        assert readme.read_text() == before, "run make chart-tables"
        assert schema.read_text() == schema_before, "run make chart-tables"
    finally:
        readme.write_text(before)
        schema.write_text(schema_before)


def test_the_program_understands_the_environment_that_the_chart_gives() -> None:
    (http,) = containers({**HTTP, **EVERYTHING})
    settings = read_http_proxy(environment(http))
    assert settings.proxy.access_log is True
    assert settings.proxy.runtime.drain_seconds == 5
    (dns,) = containers(DNS)
    assert str(read_dns_proxy(environment(dns)).rules.path) == "/etc/egress-router/destinations"


def test_notes_say_how_clients_connect() -> None:
    assert "https_proxy=http://db-egress-router.egress.svc:8080/" in notes(HTTP)
    rule = "rewrite name exact api.partner.example db-egress-router.egress.svc.cluster.local answer auto"
    assert rule in notes({**HTTP, "httpProxy": {"transparentPorts": "443"}})
    assert "rewrite" not in notes(HTTP)


ROUTERS: dict[str, object] = {
    "gateway": "192.168.12.1",
    "env": {"EGRESS_LOG_FORMAT": "json"},
    "routers": {
        "bank": {"source": "192.168.12.99/24", "destinations": "80 tcp 203.0.113.25"},
        "shop": {
            "source": "192.168.12.98/24",
            "mode": "http-proxy",
            "destinations": "*",
            "env": {"EGRESS_LOG_LEVEL": "debug"},
        },
    },
    **{key: value for key, value in EVERYTHING.items() if key not in {"sysctls", "env"}},
}


def test_a_release_may_have_several_routers_that_no_selector_mixes_up() -> None:
    documents = json.loads(json.dumps(rendered(ROUTERS)))
    names = [(each["kind"], each["metadata"]["name"]) for each in documents]
    assert len(set(names)) == len(names)
    deployments = {
        each["metadata"]["name"]: each["spec"] for each in documents if each["kind"] == "Deployment"
    }
    assert deployments.keys() == {"db-egress-router-bank", "db-egress-router-shop"}
    (router,) = deployments["db-egress-router-bank"]["template"]["spec"]["containers"]
    (proxy,) = deployments["db-egress-router-shop"]["template"]["spec"]["containers"]
    assert environment(router)["EGRESS_SOURCE"] == "192.168.12.99/24"
    assert environment(proxy)["EGRESS_LOG_FORMAT"] == "json"  # of the release
    assert environment(proxy)["EGRESS_LOG_LEVEL"] == "debug"  # of this one
    labels = [spec["template"]["metadata"]["labels"] for spec in deployments.values()]
    services = [each["metadata"]["labels"] for each in documents if each["kind"] == "Service"]
    for document in documents:
        chosen = services if document["kind"] == "ServiceMonitor" else labels
        for selector in selectors(document):
            assert sum(selector.items() <= each.items() for each in chosen) == 1, document["metadata"]


def test_what_is_wrong_with_one_of_several_routers_is_told_with_its_name() -> None:
    with pytest.raises(HelmError, match=r"routers\.bank: source: '': expected the address"):
        rendered({"gateway": "192.168.12.1", "routers": {"bank": {"destinations": "80 tcp 203.0.113.25"}}})
    with pytest.raises(HelmError, match=r"routers\.bank: destinations line 1: '80 tcpp x': unknown protocol"):
        rendered({**BASE, "routers": {"bank": {"destinations": "80 tcpp x"}}})
    with pytest.raises(HelmError, match="sauce"):
        rendered({**BASE, "routers": {"bank": {"sauce": "x"}}})


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


def test_the_schema_knows_every_variable_of_the_program_and_refuses_others() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    known = schema["definitions"]["variable"]["anyOf"][1]["enum"]
    assert known == sorted(frozenset().union(*map(names, VARIABLES.values()))), "run make chart-tables"
    for values in (
        {"env": {"EGRESS_MAX_CONNECTION": "1"}},
        {"setup": {"env": {"EGRESS_CLAIM_TIME": "1"}}},
        {"extraEnv": [{"name": "EGRESS_LOG_FORMATS", "value": "json"}]},
    ):
        with pytest.raises(HelmError):
            rendered({**HTTP, **values})
    (proxy,) = containers({**HTTP, "env": {"PYTHONASYNCIODEBUG": "1"}})
    assert environment(proxy)["PYTHONASYNCIODEBUG"] == "1"


def test_values_of_the_schema_and_of_the_file_are_the_same() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert schema["properties"].keys() == values.keys() | {"global"}
    assert schema["definitions"]["router"]["properties"].keys() == values.keys() - {"routers", "extraObjects"}


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
    # Not the one that only makes the network for another one: it has no rules and leaves the chain alone.
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


def test_what_people_add_stands_where_it_belongs() -> None:
    volume = {"name": "ca", "secret": {"secretName": "ca"}}
    mount = {"name": "ca", "mountPath": "/ca"}
    container = {"name": "sidecar", "image": "r.example/sidecar"}
    values = {
        **HTTP,
        "extraVolumes": [volume],
        "extraVolumeMounts": [mount],
        "extraContainers": [container],
        "extraInitContainers": [{**container, "name": "first"}],
        "extraEnv": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        "extraObjects": [
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "{{ .Release.Name }}-x"}},
            "apiVersion: v1\nkind: Secret\nmetadata: {name: y}\n",
        ],
        "serviceAccount": {"create": False, "name": "theirs"},
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["192.0.2.53"]},
        "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["a.example"]}],
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}},
        "probes": {"readiness": {"periodSeconds": 7}},
        "commonLabels": {"team": "bank"},
        "commonAnnotations": {"owner": "bank"},
        "podSecurityContext": {"fsGroup": 1},
        "service": {
            "type": "LoadBalancer",
            "loadBalancerSourceRanges": ["10.0.0.0/8"],
            "externalTrafficPolicy": "Local",
            "internalTrafficPolicy": "Local",
            "sessionAffinity": "ClientIP",
            "loadBalancerClass": "lab",
            "externalIPs": ["192.0.2.7"],
            "annotations": {"lb": "1"},
        },
        "priorityClassName": "high",
        "runtimeClassName": "runc",
        "schedulerName": "ours",
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
        ],
        "nodeSelector": {"egress": "yes"},
        "podAnnotations": {"pod": "a"},
        "podLabels": {"pod": "l"},
        "global": {"imagePullSecrets": [{"name": "g"}]},
        "images": {"pullSecrets": [{"name": "own"}]},
        "fullnameOverride": "short",
        "serviceMonitor": {"enabled": True, "relabelings": [{"action": "drop"}], "scrapeTimeout": "5s",
            "metricRelabelings": [{"action": "keep"}]},
    }  # fmt: skip
    documents = json.loads(json.dumps(rendered(values)))
    for document in documents:
        if not document["apiVersion"].startswith("monitoring"):
            kubernetes_validate.validate(document, KUBERNETES[1], strict=True)
    kinds = {(each["kind"], each["metadata"]["name"]): each for each in documents}
    assert {("Secret", "db-x"), ("Secret", "y")} <= kinds.keys()
    assert "ServiceAccount" not in {kind for kind, _ in kinds}
    own = [each for (kind, _), each in kinds.items() if kind != "Secret"]
    assert all(each["metadata"]["labels"]["team"] == "bank" for each in own)
    deployment = kinds["Deployment", "short"]
    assert deployment["metadata"]["annotations"] == {"owner": "bank"}
    pod = deployment["spec"]["template"]["spec"]
    proxy, sidecar = pod["containers"]
    assert sidecar == container
    assert [each["name"] for each in pod["initContainers"]] == ["setup", "first"]
    assert volume in pod["volumes"]
    assert mount in proxy["volumeMounts"]
    assert proxy["env"][-1]["valueFrom"] == {"secretKeyRef": {"name": "s", "key": "k"}}
    assert (pod["serviceAccountName"], pod["dnsPolicy"]) == ("theirs", "None")
    for name in (
        "dnsConfig", "hostAliases", "priorityClassName", "runtimeClassName", "schedulerName", "nodeSelector",
        "topologySpreadConstraints",
    ):  # fmt: skip
        assert pod[name] == values[name], name
    assert proxy["lifecycle"] == values["lifecycle"]
    meta = deployment["spec"]["template"]["metadata"]
    assert (meta["annotations"]["pod"], meta["labels"]["pod"]) == ("a", "l")
    assert proxy["readinessProbe"]["periodSeconds"] == 7
    assert proxy["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "admin"}
    assert pod["securityContext"]["fsGroup"] == 1
    assert [each["name"] for each in pod["imagePullSecrets"]] == ["g", "own"]
    service = json.loads(json.dumps(values["service"]))
    assert kinds["Service", "short"]["metadata"]["annotations"]["lb"] == service.pop("annotations")["lb"]
    assert service.items() <= kinds["Service", "short"]["spec"].items()
    (endpoint,) = kinds["ServiceMonitor", "short"]["spec"]["endpoints"]
    assert (endpoint["relabelings"], endpoint["scrapeTimeout"]) == ([{"action": "drop"}], "5s")
    assert endpoint["metricRelabelings"] == [{"action": "keep"}]


def test_the_chart_says_of_itself_what_hubs_show() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    kind, _, data = chart["icon"].partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(data) == (CHART / "icon.svg").read_bytes()
    assert chart["maintainers"]
    assert chart["annotations"]["artifacthub.io/license"] == "Apache-2.0"
    # Where it comes from is known when it is published.
    release = (CHART.parents[1] / ".github" / "workflows" / "release.yml").read_text()
    assert "home: %s\\nsources: [%s]\\n" in release


def test_a_line_that_names_its_source_opens_the_same_ports() -> None:
    lines = (
        "443 tcp db.example.com 8443 from 192.168.12.99\n80 tcp 203.0.113.25 from *\n203.0.113.27 from *\n"
    )
    assert [port for _, port, _ in service_ports({**BASE, "destinations": lines})] == [443, 80]
    assert [port for _, port, _ in service_ports({**DNS, "destinations": "80 203.0.113.25 from *"})] == [80]


BOTH = MATRIX["http-and-dns"]


def test_two_proxies_share_a_pod_with_ports_and_rules_of_their_own() -> None:
    (setup,) = containers(BOTH, "initContainers")
    # Low ports are opened for the one that needs them.
    assert environment(setup)["EGRESS_ROUTER_MODE"] == "dns-proxy"
    http, dns = json.loads(json.dumps(containers(BOTH)))
    assert ("http-proxy" in http["image"], "dns-proxy" in dns["image"]) == (True, True)
    assert read_http_proxy(environment(http)).proxy.runtime.admin_port == 9797
    assert read_dns_proxy(environment(dns)).proxy.runtime.admin_port == 9798
    assert (http["ports"][0]["containerPort"], dns["ports"][0]["containerPort"]) == (9797, 9798)
    volumes = [
        next(each["name"] for each in container["volumeMounts"] if each["mountPath"] == "/etc/egress-router")
        for container in (http, dns)
    ]
    assert volumes == ["destinations", "also-destinations"]
    pod = json.loads(json.dumps(the("Deployment", BOTH)))["spec"]["template"]["spec"]
    maps = {each["name"]: each["configMap"]["name"] for each in pod["volumes"] if "configMap" in each}
    stored = {
        each["metadata"]["name"]: each["data"]
        for each in json.loads(json.dumps(rendered(BOTH)))
        if each["kind"] == "ConfigMap"
    }
    assert stored[maps["also-destinations"]] == {"destination": "80 203.0.113.25\n"}
    assert [port for _, port, _ in service_ports(BOTH)] == [8080, 80]
    (_, allowed), (_, monitored) = ingress(BOTH)
    assert allowed == [("TCP", 8080, 8080), ("TCP", 80, 80)]
    assert monitored == [("TCP", 9797, 9797), ("TCP", 9798, 9798)]
    (job,) = [each for each in json.loads(json.dumps(rendered(BOTH))) if each["kind"] == "Job"]
    commands = [each["command"][2:] for each in job["spec"]["template"]["spec"]["containers"]]
    assert commands == [["http-proxy", "/rules/destinations"], ["dns-proxy", "/also/destinations"]]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {**REDIRECT, "also": {"mode": "http-proxy", "destinations": "*"}},
            "also.mode: http-proxy beside mode redirect",
        ),
        (
            {**HTTP, "also": {"mode": "http-proxy", "destinations": "*"}},
            "also.mode: http-proxy beside mode http-proxy",
        ),
        ({**HTTP, "also": {"mode": "dns-proxy"}}, "also: no rules"),
        (
            {**HTTP, "also": {"mode": "dns-proxy", "destinations": "8080 1.2.3.4"}},
            "port 8080 is wanted twice",
        ),
        (
            {**HTTP, "also": {"mode": "dns-proxy", "destinations": "9797 1.2.3.4"}},
            "port 9797 is wanted twice",
        ),
        (
            {**HTTP, "also": {"mode": "dns-proxy", "destinations": "80 1.2.3.4", "adminPort": 9797}},
            "also.adminPort and admin.port are both 9797",
        ),
    ],
)
def test_two_proxies_that_cannot_share_a_pod_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(HelmError) as caught:
        rendered(values)
    assert words in str(caught.value)
