"""A release with several routers, and a pod with two proxies."""

from __future__ import annotations

import json

import pytest
from helm_python.errors import HelmError

from egress_router.settings.dns_proxy import read_dns_proxy
from egress_router.settings.http_proxy import read_http_proxy
from tests.chart.charting import (
    BASE,
    BOTH,
    HTTP,
    REDIRECT,
    ROUTERS,
    containers,
    environment,
    ingress,
    rendered,
    selectors,
    service_ports,
    the,
)


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
            "port 8080 is used twice",
        ),
        (
            {**HTTP, "also": {"mode": "dns-proxy", "destinations": "9797 1.2.3.4"}},
            "port 9797 is used twice",
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
