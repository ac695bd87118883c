"""Values: what is refused, the schema, and the variables that reach the containers."""

from __future__ import annotations

import json

import kubernetes_validate
import pytest
import yaml
from helm_python.errors import HelmError

from egress_router.settings.catalogue import VARIABLES, names
from egress_router.settings.chart import chart_values
from egress_router.settings.dns_proxy import read_dns_proxy
from egress_router.settings.http_proxy import read_http_proxy
from egress_router.settings.setup import read_setup
from tests.chart.charting import (
    BASE,
    CHART,
    DNS,
    DUAL,
    EVERYTHING,
    FORWARDING,
    FORWARDING_6,
    HTTP,
    KUBERNETES,
    MATRIX,
    REDIRECT,
    containers,
    environment,
    rendered,
    the,
)


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


def test_large_numbers_stay_whole_numbers() -> None:
    values = {**DNS, "nodeFailureSeconds": 2_592_000, "drainSeconds": 1_000_000}
    pod = json.loads(json.dumps(the("Deployment", values)))["spec"]["template"]["spec"]
    # Compared as text: to Python 2592000.0 is the same number, and Kubernetes refuses it.
    assert [str(each["tolerationSeconds"]) for each in pod["tolerations"]] == ["2592000"] * 2
    assert pod["terminationGracePeriodSeconds"] == 1_000_005
    (proxy,) = containers(values)
    assert environment(proxy)["EGRESS_DRAIN_SECONDS"] == "1000000"


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


def test_the_program_understands_the_environment_that_the_chart_gives() -> None:
    (http,) = containers({**HTTP, **EVERYTHING})
    settings = read_http_proxy(environment(http))
    assert settings.proxy.access_log is True
    assert settings.proxy.runtime.drain_seconds == 5
    (dns,) = containers(DNS)
    assert str(read_dns_proxy(environment(dns)).rules.path) == "/etc/egress-router/destinations"


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
