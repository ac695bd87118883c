"""The chart, rendered by Helm's own library, held against the Kubernetes schemas and the program itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import kubernetes_validate
import pytest
import yaml
from helm_python.chart import Chart, lint
from helm_python.errors import HelmError

from egress_router.settings.dns_proxy import read_dns_proxy
from egress_router.settings.http_proxy import read_http_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
    return next(document for document in rendered(values) if document["kind"] == kind)


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


def test_ports_of_the_service_follow_the_destinations() -> None:
    def ports(values: Mapping[str, object]) -> list[tuple[int, str]]:
        spec = json.loads(json.dumps(the("Service", values)))["spec"]
        return [(port["port"], port["protocol"]) for port in spec["ports"]]

    assert ports(REDIRECT) == [(80, "TCP"), (53, "UDP")]
    assert ports(HTTP) == [(8080, "TCP")]
    assert ports(DNS) == [(80, "TCP"), (8443, "TCP")]


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
    context = json.loads(json.dumps(given["securityContext"]))
    assert "privileged" not in context
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}


def test_low_ports_are_open_to_a_forwarder_without_root() -> None:
    pod = json.loads(json.dumps(the("Deployment", DNS)))["spec"]["template"]["spec"]
    assert pod["securityContext"]["sysctls"] == [
        {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}
    ]


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


def test_prometheus_may_connect_to_the_administration_port_alone() -> None:
    policy = json.loads(json.dumps(the("NetworkPolicy", {**HTTP, **EVERYTHING})))
    clients, monitoring = policy["spec"]["ingress"]
    assert clients == {"from": [{"podSelector": {}}]}
    assert monitoring["ports"] == [{"port": 9797}]


def test_the_readme_lists_every_value_with_its_default() -> None:
    def leaves(value: object, path: str = "") -> Iterator[tuple[str, str]]:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from leaves(inner, f"{path}.{key}" if path else key)
        else:
            yield path, json.dumps(value)

    readme = (CHART / "README.md").read_text()
    listed = re.findall(r"^\| `([\w.]+)` \| `(.*?)` \| .+ \|$", readme, re.MULTILINE)
    assert listed == list(leaves(yaml.safe_load((CHART / "values.yaml").read_text())))


def test_the_program_understands_the_environment_that_the_chart_gives() -> None:
    (http,) = containers({**HTTP, **EVERYTHING})
    settings = read_http_proxy(environment(http))
    assert settings.proxy.access_log is True
    assert settings.proxy.runtime.drain_seconds == 25
    (dns,) = containers(DNS)
    assert str(read_dns_proxy(environment(dns)).rules.path) == "/etc/egress-router/destinations"


def test_notes_say_how_clients_connect() -> None:
    with Chart.load(CHART) as chart:
        files = chart.render(values=HTTP, name="db", namespace="egress")
    notes = next(text for name, text in files.items() if name.endswith("NOTES.txt"))
    assert "https_proxy=http://db-egress-router.egress.svc:8080/" in notes
