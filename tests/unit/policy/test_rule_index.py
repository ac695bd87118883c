"""The index decides as a walk over all rules does, without walking."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.grammar.acl import AccessList, Domain, Everything, Rule, parse
from egress_router.grammar.locality import embedded
from egress_router.policy.access_list import NOTHING_OWN, AccessPolicy, Decision, Reason, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.address import IPAddress


def matches(rule: Rule, host: str | IPAddress, address: IPAddress, port: int) -> bool:
    if rule.port not in {None, port}:
        return False
    match rule.subject:
        case Everything():
            return NOTHING_OWN.is_remote(address)
        case Domain(name, below):
            return isinstance(host, str) and (host == name or (below and host.endswith("." + name)))
        case network:
            inner = embedded(address) if isinstance(address, IPv6Address) and not rule.allows else ()
            return address in network or any(each in network for each in inner)


def linear(rules: tuple[Rule, ...], host: str | IPAddress, port: int, addresses: list[IPAddress]) -> Decision:
    firsts = [next((rule for rule in rules if matches(rule, host, each, port)), None) for each in addresses]
    for rule in rules:
        if not rule.allows and any(first is rule for first in firsts):
            return Decision(Verdict.DENIED, Reason.RULE, rule)
    allowed = [(each, first) for each, first in zip(addresses, firsts, strict=True) if first is not None]
    if allowed:
        return Decision(Verdict.ALLOWED, Reason.RULE, allowed[0][1], tuple(each for each, _ in allowed))
    everything = isinstance(rules[-1].subject, Everything)
    return Decision(Verdict.DENIED, Reason.NOT_REMOTE if everything else Reason.NO_RULE)


LABELS = st.sampled_from(["a", "b", "example", "com"])
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
V4 = st.integers(0, 255).map(lambda low: ip_address(0x0A000000 + low % 4 + (low // 4) * 0x400000))
V6 = st.integers(0, 15).map(lambda low: ip_address((0x20010DB8 << 96) + low)) | V4.map(
    lambda inner: ip_address((0x64FF9B << 96) + int(inner))
)
ADDRESSES: st.SearchStrategy[IPAddress] = V4 | V6 | st.just(ip_address("127.0.0.1"))
NETWORKS = st.one_of(
    st.tuples(V4, st.integers(0, 32)).map(lambda pair: IPv4Network(pair, strict=False)),
    st.tuples(V6, st.integers(0, 128)).map(lambda pair: IPv6Network(pair, strict=False)),
)
PORTS = st.sampled_from([80, 443])
RULES = st.builds(
    Rule,
    st.just(0),
    st.just(""),
    st.booleans(),
    st.builds(Domain, NAMES, st.booleans()) | NETWORKS,
    st.none() | PORTS,
)


@given(
    st.lists(RULES, min_size=1, max_size=12),
    st.booleans(),
    NAMES | ADDRESSES,
    PORTS,
    st.lists(ADDRESSES, min_size=1, max_size=4, unique=True),
)
def test_the_index_decides_as_a_walk_does(
    rules: list[Rule], everything: bool, host: str | IPAddress, port: int, addresses: list[IPAddress]
) -> None:
    last = [Rule(0, "*", True, Everything(), None)] if everything else []
    numbered = tuple(
        Rule(number, rule.text, rule.allows, rule.subject, rule.port)
        for number, rule in enumerate([*rules, *last], start=1)
    )
    under_test = AccessPolicy(AccessList(numbered))
    known = addresses if isinstance(host, str) else [host]
    decision = under_test.by_addresses(host, port, known, NOTHING_OWN)
    assert decision == linear(numbered, host, port, known)
    if isinstance(host, str):
        early = under_test.by_name(host, port)
        assert early is None or early.verdict is decision.verdict


class Watched(tuple[Rule, ...]):
    """Rules that may be looked at by position, but not walked over."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Rule]:
        pytest.fail("a decision walked over the rules")


def test_fifty_thousand_rules_are_no_walk() -> None:
    lines = [f"h{number}.example" for number in range(25_000)]
    lines += [f"!10.{number >> 8}.{number & 255}.0/24" for number in range(25_000)]
    large = AccessPolicy(parse("RULES", "\n".join([*lines, "*"])))
    large.rules = Watched(large.rules)
    assert large.by_name("www.other.example", 443) is None
    decision = large.by_addresses("www.other.example", 443, (ip_address("192.0.2.1"),), NOTHING_OWN)
    assert decision.rule is not None
    assert decision.rule.text == "*"
    decision = large.by_addresses("www.other.example", 443, (ip_address("10.97.167.1"),), NOTHING_OWN)
    assert decision.rule is not None
    assert decision.rule.line == 50_000
