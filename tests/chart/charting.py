"""What the tests of the chart share: values of each kind, and the chart rendered by Helm's own library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import yaml
from helm_python.chart import Chart

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


Json = dict[str, Any]
# Protocol, first and last port.
Allowed = list[tuple[str, int, int]]

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


def service_ports(values: Mapping[str, object]) -> list[tuple[str, int, str]]:
    spec = json.loads(json.dumps(the("Service", values)))["spec"]
    return [(port["name"], port["port"], port["protocol"]) for port in spec["ports"]]


def selectors(thing: object) -> Iterator[dict[str, str]]:
    """What chooses pods: labels of a Service, matchLabels of the others; peers of a policy are none."""
    spec = json.loads(json.dumps(thing)).get("spec", {})
    for name in ("selector", "podSelector"):
        if spec.get(name):
            yield spec[name].get("matchLabels", spec[name])


def every_container(values: Mapping[str, object]) -> Iterator[Json]:
    """Every container of every pod that the chart makes, that of the test too."""
    for document in json.loads(json.dumps(rendered(values))):
        if document["kind"] in {"Deployment", "Pod", "Job"}:
            pod = document["spec"].get("template", document)["spec"]
            yield from (*pod.get("initContainers", ()), *pod["containers"])


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


def notes(values: Mapping[str, object]) -> str:
    with Chart.load(CHART) as chart:
        files = chart.render(values=dict(values), name="db", namespace="egress")
    text: str = next(text for name, text in files.items() if name.endswith("NOTES.txt"))
    return text


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

BOTH = MATRIX["http-and-dns"]
