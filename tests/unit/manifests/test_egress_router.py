from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from egress_router.convert import Form, converted
from egress_router.errors import ConfigError

TEXT = (Path(__file__).parent / "openshift-egress-router.yaml").read_text()


def test_a_resource_becomes_values_of_the_chart() -> None:
    assert yaml.safe_load(converted("x", TEXT, Form.VALUES)) == {
        "mode": "redirect",
        "source": "192.168.12.99/24",
        "gateway": "192.168.12.1",
        "interface": {"provider": "create", "macvlanMode": "bridge", "parent": "eth1"},
        "destinations": "80 tcp 203.0.113.25\n8080 tcp 203.0.113.26 80\n203.0.113.27\n",
    }


def test_several_resources_become_several_documents() -> None:
    text = converted("x", f"{TEXT}---\n{TEXT.replace('name: bank', 'name: shop')}", Form.VALUES)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# helm install bank charts/egress-router --values FILE",
        "# helm install shop charts/egress-router --values FILE",
    ]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("operator.openshift.io/v1", "operator.openshift.io/v2", "expected network.operator.openshift.io/v1"),
        ("mode: Redirect", "mode: HTTPProxy", "line 6: expected mode: Redirect"),
        ("mode: Bridge", "mode: L2", "line 8: unknown mode 'L2' (Bridge, Private, VEPA, Passthru)"),
        ("protocol: TCP, target", "protocol: ICMP, target", "line 14: unknown protocol 'ICMP'"),
        ("port: 80,", "port: 0,", "line 13: invalid port '0'"),
        ("203.0.113.26", "203.0.113", "line 14: '8080 tcp 203.0.113 80': ambiguous IPv4 spelling"),
        ("port: 8080", "port: 80", "line 14: '80 tcp 203.0.113.26 80': localport 80 is already used"),
        ("203.0.113.27", "2001:db8::1", "line 15: '2001:db8::1': 2001:db8::1 needs an IPv6 address"),
        (
            "targetPort",
            "targetport",
            "redirectRules has the field 'targetport'; expected destinationIP, port,",
        ),
        (", gateway: 192.168.12.1", "", "line 10: has no gateway"),
        ("192.168.12.99/24", "192.168.12.99/33", "line 10: prefix length 33"),
    ],
)
def test_what_cannot_be_converted_is_told_with_its_line(old: str, new: str, reason: str) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError) as caught:
        converted("x", TEXT.replace(old, new), Form.VALUES)
    assert reason in str(caught.value)
    assert str(caught.value).startswith("x document 1 (EgressRouter bank) line ")
