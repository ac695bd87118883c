from __future__ import annotations

import json
import time
from ipaddress import ip_address

import pytest

from egress_router.grammar.address import parse_address
from egress_router.grammar.redirect import Protocol
from egress_router.manifests.egress_policy import parse
from egress_router.policy.egress_policy import PolicyIndex, names_of

# The document's example.
ENTRIES: list[dict[str, object]] = [
    {"type": "Allow", "to": {"cidrSelector": "1.2.3.0/24"}},
    {"type": "Allow", "to": {"dnsName": "www.foo.com"}},
    {"type": "Deny", "to": {"cidrSelector": "0.0.0.0/0"}},
]
NAMES = names_of({"www.foo.com": [ip_address("198.51.100.7"), ip_address("2001:db8::7")]})


def index(entries: list[dict[str, object]], kind: str = "EgressNetworkPolicy") -> PolicyIndex:
    version = "v1" if kind == "EgressNetworkPolicy" else "k8s.ovn.org/v1"
    document = {"kind": kind, "apiVersion": version, "spec": {"egress": entries}}
    return PolicyIndex(parse("EGRESS_POLICY", json.dumps(document)))


def judged(policy: PolicyIndex, address: str, port: int = 443, protocol: Protocol = Protocol.TCP) -> str:
    return str(policy.decide(ip_address(address), port, NAMES, protocol))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("1.2.3.4", "policy entry 1 (Allow 1.2.3.0/24) allows it"),
        ("198.51.100.7", "policy entry 2 (Allow www.foo.com) allows it"),
        ("198.51.100.8", "policy entry 3 (Deny 0.0.0.0/0) denies it"),
        ("1.2.4.1", "policy entry 3 (Deny 0.0.0.0/0) denies it"),
        ("2001:db8::7", "policy entry 2 (Allow www.foo.com) allows it"),
        ("2001:db8::8", "no policy entry matches it, so it is allowed"),
    ],
)
def test_the_first_entry_that_matches_decides(address: str, reason: str) -> None:
    assert judged(index(ENTRIES), address) == reason


def test_reversed_the_example_denies_everything() -> None:
    policy = index(ENTRIES[::-1])
    for address in ("1.2.3.4", "198.51.100.7", "198.51.100.8"):
        assert judged(policy, address) == "policy entry 1 (Deny 0.0.0.0/0) denies it"


def test_an_entry_by_name_matches_the_addresses_of_the_moment() -> None:
    policy, address = index(ENTRIES), ip_address("198.51.100.7")
    assert policy.policy.dns_names == ("www.foo.com",)
    assert policy.decide(address, 443, NAMES).is_allowed
    assert not policy.decide(address, 443).is_allowed
    assert not policy.decide(
        address, 443, names_of({"www.foo.com": [], "other.example": [address]})
    ).is_allowed


def test_ports_and_protocols_count() -> None:
    entries: list[dict[str, object]] = [
        {"type": "Allow", "to": {"cidrSelector": "10.0.0.0/8"}, "ports": [{"protocol": "TCP", "port": 443}]},
        {
            "type": "Deny",
            "to": {"dnsName": "www.foo.com"},
            "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 80}],
        },
        {"type": "Deny", "to": {"cidrSelector": "10.0.0.0/8"}},
    ]
    policy = index(entries, "EgressFirewall")
    assert judged(policy, "10.0.0.1") == "policy entry 1 (Allow 10.0.0.0/8 on TCP 443) allows it"
    assert judged(policy, "10.0.0.1", 80) == "policy entry 3 (Deny 10.0.0.0/8) denies it"
    assert judged(policy, "10.0.0.1", 443, Protocol.UDP) == "policy entry 3 (Deny 10.0.0.0/8) denies it"
    assert judged(policy, "198.51.100.7", 53, Protocol.UDP).endswith(
        "www.foo.com on UDP 53, TCP 80) denies it"
    )
    assert policy.decide(ip_address("198.51.100.7"), 53, NAMES).is_allowed


def test_a_longer_prefix_does_not_win_over_an_earlier_entry() -> None:
    entries: list[dict[str, object]] = [
        {"type": "Allow", "to": {"cidrSelector": "10.0.0.0/8"}},
        {"type": "Deny", "to": {"cidrSelector": "10.1.2.3/32"}},
    ]
    assert judged(index(entries), "10.1.2.3") == "policy entry 1 (Allow 10.0.0.0/8) allows it"
    assert judged(index(entries[::-1]), "10.1.2.3") == "policy entry 1 (Deny 10.1.2.3/32) denies it"


@pytest.mark.parametrize("address", ["64:ff9b::a01:203", "2002:a01:203::1", "::ffff:10.1.2.3"])
def test_an_ipv4_address_inside_an_ipv6_one_is_denied_too(address: str) -> None:
    entries: list[dict[str, object]] = [
        {"type": "Allow", "to": {"cidrSelector": "::/0"}},
        {"type": "Deny", "to": {"cidrSelector": "10.0.0.0/8"}},
    ]
    decision = index(entries).decide(parse_address(address), 443)
    assert str(decision) == "policy entry 2 (Deny 10.0.0.0/8) denies it"


def test_of_several_addresses_the_denied_ones_are_left_out() -> None:
    addresses = [ip_address(each) for each in ("198.51.100.8", "1.2.3.4", "1.2.3.5")]
    sifted = index(ENTRIES).sift(addresses, 443, NAMES)
    assert list(map(str, sifted.allowed)) == ["1.2.3.4", "1.2.3.5"]
    sifted = index(ENTRIES).sift(addresses[:1], 443, NAMES)
    assert sifted.allowed == ()
    assert str(sifted.denial) == "policy entry 3 (Deny 0.0.0.0/0) denies it"


def test_ten_thousand_entries_cost_a_decision_no_more_than_their_prefix_lengths() -> None:
    entries: list[dict[str, object]] = [
        {"type": "Deny", "to": {"cidrSelector": f"10.{n // 256}.{n % 256}.0/{24 + n % 9}"}}
        for n in range(9999)
    ]
    policy = index([*entries, {"type": "Deny", "to": {"cidrSelector": "0.0.0.0/0"}}])
    address = ip_address("192.0.2.1")
    started = time.process_time()
    for _ in range(1000):
        assert not policy.decide(address, 443).is_allowed
    assert time.process_time() - started < 2  # entry by entry it would take a hundred times as long
