"""The ports and selectors of Services follow the rules."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from helm_python.errors import HelmError

from egress_router.grammar.redirect import parse as parse_redirects
from egress_router.settings.http_proxy import read_http_proxy

if TYPE_CHECKING:
    from collections.abc import Mapping
from tests.chart.charting import (
    BASE,
    DNS,
    DUAL,
    EVERYTHING,
    HTTP,
    REDIRECT,
    containers,
    environment,
    rendered,
    selectors,
    service_ports,
    the,
)


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


def test_a_line_that_names_its_source_opens_the_same_ports() -> None:
    lines = (
        "443 tcp db.example.com 8443 from 192.168.12.99\n80 tcp 203.0.113.25 from *\n203.0.113.27 from *\n"
    )
    assert [port for _, port, _ in service_ports({**BASE, "destinations": lines})] == [443, 80]
    assert [port for _, port, _ in service_ports({**DNS, "destinations": "80 203.0.113.25 from *"})] == [80]
