from __future__ import annotations

import pytest

from egress_router.errors import ConfigError
from egress_router.grammar import lint
from egress_router.manifests.egress_policy import parse

EXAMPLE = """\
{
\t"kind": "EgressNetworkPolicy",
\t"apiVersion": "v1",
\t"metadata": {"name": "default"},
\t"spec": {
\t\t"egress": [
\t\t\t{"type": "Allow", "to": {"cidrSelector": "1.2.3.0/24"}},
\t\t\t{"type": "Allow", "to": {"dnsName": "www.foo.com"}},
\t\t\t{"type": "Deny", "to": {"cidrSelector": "0.0.0.0/0"}}
\t\t]
\t}
}
"""
FIREWALL = """\
apiVersion: k8s.ovn.org/v1
kind: EgressFirewall
metadata: {name: default}
spec:
  egress:
    - type: Allow
      to: {dnsName: WWW.Example.COM.}
      ports:
        - {protocol: TCP, port: 443}
        - {protocol: UDP, port: 443}
    - type: Deny
      to: {cidrSelector: "::/0"}
"""


def printed(text: str) -> list[str]:
    return [str(each) for each in parse("EGRESS_POLICY", text).entries]


def test_the_documents_example_is_read_as_json_with_tabs() -> None:
    policy = parse("EGRESS_POLICY", EXAMPLE)
    assert (policy.kind, policy.name) == ("EgressNetworkPolicy", "default")
    assert printed(EXAMPLE) == ["Allow 1.2.3.0/24", "Allow www.foo.com", "Deny 0.0.0.0/0"]
    assert [each.line for each in policy.entries] == [7, 8, 9]


def test_a_firewall_is_read_as_yaml_with_ports_and_names_are_compared_as_everywhere() -> None:
    assert printed(FIREWALL) == ["Allow www.example.com on TCP 443, UDP 443", "Deny ::/0"]


def test_the_other_version_and_a_list_of_one_are_read_too() -> None:
    other = EXAMPLE.replace('"v1"', '"network.openshift.io/v1"')
    assert len(printed(other)) == 3
    assert len(printed(f'{{"kind": "List", "items": [{other}]}}')) == 3
    assert len(printed(f'{{"kind": "EgressNetworkPolicyList", "items": [{other}]}}')) == 3


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"v1"', '"v2"', "line 3: has the apiVersion 'v2'; expected v1 or network.openshift.io/v1"),
        (
            '"kind": "EgressNetworkPolicy"',
            '"kind": "Pod"',
            "is of kind Pod; expected one EgressNetworkPolicy",
        ),
        ('"Deny"', '"deny"', "line 9: entry 3: has the type 'deny'; expected Allow or Deny"),
        ('"1.2.3.0/24"', '"1.2.3.0"', "line 7: entry 1: cidrSelector: invalid prefix length"),
        ('"1.2.3.0/24"', '"1.2.3.0/33"', "entry 1: cidrSelector: prefix length 33"),
        ('"www.foo.com"', '"*.foo.com"', "entry 2: dnsName: '*.foo.com' is a wildcard"),
        ('"www.foo.com"', '"a b"', "entry 2: dnsName: 'a b' is not a host name"),
        ('{"dnsName": "www.foo.com"}', "{}", "entry 2: expected `to` with one of cidrSelector or dnsName"),
        ('"dnsName": "www', '"cidrSelector": "::/0", "dnsName": "www', "entry 2: expected `to` with one of"),
        ('"dnsName"', '"dnsname"', "entry 2: has the field 'dnsname'; expected cidrSelector, dnsName"),
        (
            '"dnsName": "www.foo.com"',
            '"nodeSelector": {}',
            "entry 2: nodeSelector: the router does not know the nodes",
        ),
        ('"Deny", ', '"Deny", "ports": [], ', "entry 3: has ports, which only an EgressFirewall may have"),
        ('"egress"', '"Egress"', "has no list spec.egress"),
    ],
)
def test_what_is_wrong_is_told_with_entry_and_line(old: str, new: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(
            "EGRESS_POLICY", EXAMPLE.replace(old, new, 1) if old != '"egress"' else EXAMPLE.replace(old, new)
        )
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("protocol: UDP", "protocol: udp", "line 10: entry 1: expected a protocol, one of TCP, UDP, SCTP"),
        ("port: 443}", "port: 0}", "entry 1: invalid port '0'"),
        ("port: 443}", "ports: 443}", "entry 1: has the field 'ports'; expected protocol, port"),
        ("k8s.ovn.org/v1", "v1", "has the apiVersion 'v1'; expected k8s.ovn.org/v1"),
    ],
)
def test_what_is_wrong_with_ports_is_told(old: str, new: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse("EGRESS_POLICY", FIREWALL.replace(old, new, 1))
    assert reason in str(caught.value)


def test_a_selector_that_the_router_does_not_know_is_one_error() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("EGRESS_POLICY", EXAMPLE.replace('"dnsName": "www.foo.com"', '"nodeSelector": {}', 1))
    assert len(caught.value.problems) == 1


def test_all_errors_come_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("EGRESS_POLICY", EXAMPLE.replace("Allow", "allow").replace("0.0.0.0/0", "x"))
    assert len(caught.value.problems) == 3


def test_exactly_one_object_is_expected() -> None:
    for text, number in (("", 0), (f"{FIREWALL}---\n{FIREWALL}", 2)):
        with pytest.raises(ConfigError, match=f"holds {number} objects; expected one"):
            parse("EGRESS_POLICY", text)


def test_more_entries_than_one_transaction_holds_are_refused() -> None:
    entries = ",".join(['{"type": "Deny", "to": {"cidrSelector": "::/0"}}'] * 10_001)
    with pytest.raises(ConfigError, match="has 10001 entries; at most 10000"):
        parse(
            "P", f'{{"kind": "EgressNetworkPolicy", "apiVersion": "v1", "spec": {{"egress": [{entries}]}}}}'
        )


def warned(*entries: str) -> list[str]:
    text = "\n".join(f"    - {each}" for each in entries)
    head = "apiVersion: k8s.ovn.org/v1\nkind: EgressFirewall\nspec:\n  egress:\n"
    return [str(each) for each in lint.egress_policy("P", parse("P", head + text))]


ALL = "{type: Deny, to: {cidrSelector: 0.0.0.0/0}}"
ALL_6 = "{type: Deny, to: {cidrSelector: '::/0'}}"
SOME = "{type: Allow, to: {cidrSelector: 1.2.3.0/24}}"
NAME = "{type: Allow, to: {dnsName: www.foo.com}}"


def test_the_documents_example_has_no_entry_that_never_acts() -> None:
    assert not warned(SOME, NAME, ALL, ALL_6)
    assert not warned(NAME.replace("}}", "}, ports: [{protocol: TCP, port: 1}]}"), NAME)


def test_entries_behind_one_that_matches_all_they_do_are_told() -> None:
    after, name = warned(ALL, SOME, NAME)
    assert after == (
        "P line 6: entry 2 (Allow 1.2.3.0/24) never acts: entry 1 (Deny 0.0.0.0/0) comes first"
        " and matches all that it does"
    )
    assert name.startswith(
        "P line 7: entry 3 (Allow www.foo.com) acts for IPv6 addresses only, if the name has any"
    )
    (name,) = warned(ALL, ALL_6, NAME)
    assert "entry 3 (Allow www.foo.com) never acts: entry 1 (Deny 0.0.0.0/0) comes first" in name
    (twice,) = warned(NAME, NAME)
    assert "entry 2 (Allow www.foo.com) never acts: entry 1" in twice


def test_an_entry_with_ports_covers_no_more_than_these() -> None:
    web = ALL.replace("}}", "}, ports: [{protocol: TCP, port: 443}, {protocol: UDP, port: 443}]}")
    assert not warned(web, SOME)
    assert not warned(web, SOME.replace("}}", "}, ports: [{protocol: SCTP, port: 443}]}"))
    assert len(warned(web, SOME.replace("}}", "}, ports: [{protocol: UDP, port: 443}]}"))) == 1
