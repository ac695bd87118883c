"""Who may connect to the pods: the NetworkPolicies."""

from __future__ import annotations

import json

import pytest

from tests.chart.charting import (
    BASE,
    DNS,
    EVERYTHING,
    HTTP,
    MATRIX,
    REDIRECT,
    Allowed,
    ingress,
    notes,
    rendered,
    the,
)

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
    # Where the rules are known, the Service's ports decide nothing.
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
