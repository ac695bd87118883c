"""What an allow/deny list decides: by name, port and address, for short names, about what is not remote."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from egress_router.grammar.acl import parse
from egress_router.grammar.address import parse_host
from egress_router.policy.access_list import (
    AccessPolicy,
    Decision,
    Own,
    Reason,
    Verdict,
    connect_port,
    explanation,
    on_trial,
)

OWN = Own(frozenset({ip_address("192.0.2.99"), ip_address("2001:db8::99")}), frozenset({8080, 9797}))
ALLOWED, DENIED = Verdict.ALLOWED, Verdict.DENIED


def policy(*lines: str) -> AccessPolicy:
    return AccessPolicy(parse("RULES", "\n".join(lines)))


def judged(lines: list[str], host: str, *addresses: str, port: int = 443) -> Decision:
    target = parse_host(host)
    known = tuple(map(ip_address, addresses)) if isinstance(target, str) else (target,)
    return policy(*lines).by_addresses(target, port, known, OWN)


@pytest.mark.parametrize(
    ("lines", "host", "addresses", "verdict", "reason", "line", "dialled"),
    [
        # by name
        (["www.example.org"], "www.example.org", ["192.0.2.1"], ALLOWED, Reason.RULE, 1, ["192.0.2.1"]),
        (["www.example.org"], "WWW.Example.org.", ["192.0.2.1"], ALLOWED, Reason.RULE, 1, ["192.0.2.1"]),
        (["www.example.org"], "a.www.example.org", ["192.0.2.1"], DENIED, Reason.NO_RULE, None, []),
        (["*.example.com"], "example.com", ["192.0.2.1"], ALLOWED, Reason.RULE, 1, ["192.0.2.1"]),
        (["*.example.com"], "a.b.example.com", ["192.0.2.1"], ALLOWED, Reason.RULE, 1, ["192.0.2.1"]),
        (["*.example.com"], "badexample.com", ["192.0.2.1"], DENIED, Reason.NO_RULE, None, []),
        (["!*.bad.example", "*"], "x.bad.example", ["192.0.2.1"], DENIED, Reason.RULE, 1, []),
        (["ok.bad.example", "!*.bad.example", "*"], "ok.bad.example", ["192.0.2.1"], ALLOWED, Reason.RULE, 1, ["192.0.2.1"]),
        (["!*.bad.example", "ok.bad.example", "*"], "ok.bad.example", ["192.0.2.1"], DENIED, Reason.RULE, 1, []),
        (["!a.example"], "b.example", ["192.0.2.1"], DENIED, Reason.NO_RULE, None, []),
        # by port
        (["a.example:80", "!a.example", "*"], "a.example", ["192.0.2.1"], DENIED, Reason.RULE, 2, []),
        (["a.example:443", "!a.example", "*"], "a.example", ["192.0.2.1"], ALLOWED, Reason.RULE, 1, ["192.0.2.1"]),
        (["[2001:db8::]/32:443"], "[2001:db8::1]", [], ALLOWED, Reason.RULE, 1, ["2001:db8::1"]),
        (["[2001:db8::]/32:80"], "[2001:db8::1]", [], DENIED, Reason.NO_RULE, None, []),
        # by address
        (["192.0.2.0/24"], "a.example", ["192.0.2.1", "198.51.100.1"], ALLOWED, Reason.RULE, 1, ["192.0.2.1"]),
        (["192.0.2.0/24"], "a.example", ["198.51.100.1"], DENIED, Reason.NO_RULE, None, []),
        (["!10.0.0.0/8", "*"], "a.example", ["192.0.2.1", "10.1.1.1"], DENIED, Reason.RULE, 1, []),
        (["!10.0.0.0/8", "a.example"], "a.example", ["10.1.1.1"], DENIED, Reason.RULE, 1, []),
        (["a.example", "!10.0.0.0/8"], "a.example", ["10.1.1.1"], ALLOWED, Reason.RULE, 1, ["10.1.1.1"]),
        (["10.0.0.1", "!10.0.0.0/8", "*"], "a.example", ["10.0.0.1"], ALLOWED, Reason.RULE, 1, ["10.0.0.1"]),
        (["10.0.0.1", "!10.0.0.0/8", "*"], "a.example", ["10.0.0.1", "10.0.0.2"], DENIED, Reason.RULE, 2, []),
        (["192.0.2.7", "!a.example"], "a.example", ["192.0.2.7"], ALLOWED, Reason.RULE, 1, ["192.0.2.7"]),
        (["192.0.2.7", "!a.example"], "a.example", ["192.0.2.7", "192.0.2.8"], DENIED, Reason.RULE, 2, []),
        (["2001:db8::/32"], "a.example", ["192.0.2.1", "2001:db8::1"], ALLOWED, Reason.RULE, 1, ["2001:db8::1"]),
        (["0.0.0.0/0"], "127.0.0.1", [], ALLOWED, Reason.RULE, 1, ["127.0.0.1"]),
        # a literal meets rules by address only
        (["*.example.com", "192.0.2.1"], "192.0.2.1", [], ALLOWED, Reason.RULE, 2, ["192.0.2.1"]),
        (["!192.0.2.0/24", "*"], "[::ffff:192.0.2.1]", [], DENIED, Reason.RULE, 1, []),
        # forms of IPv6 that carry IPv4: a denial holds, an allowance does not
        (["!10.0.0.0/8", "*"], "[64:ff9b::10.0.0.1]", [], DENIED, Reason.RULE, 1, []),
        (["!10.0.0.0/8", "*"], "[2002:0a00:0001::1]", [], DENIED, Reason.RULE, 1, []),
        (["!203.0.113.0/24", "*"], "[64:ff9b:1::203.0.113.1]", [], DENIED, Reason.RULE, 1, []),
        (["!203.0.113.0/24", "*"], "[64:ff9b:1:2:cb:71:100:0]", [], DENIED, Reason.RULE, 1, []),
        (["!203.0.113.0/24", "*"], "[64:ff9b:1:2cb:0:7101::]", [], DENIED, Reason.RULE, 1, []),
        (["!203.0.113.0/24", "*"], "[64:ff9b:1:cb00:71:100::]", [], DENIED, Reason.RULE, 1, []),
        (["!203.0.113.0/24", "*"], "[2001:db8::5efe:203.0.113.1]", [], DENIED, Reason.RULE, 1, []),
        (["!203.0.113.0/24", "*"], "[::ffff:0:203.0.113.1]", [], DENIED, Reason.RULE, 1, []),
        (["!203.0.113.0/24", "*"], "[64:ff9b:1::203.0.112.1]", [], ALLOWED, Reason.RULE, 2, ["64:ff9b:1::cb00:7001"]),
        (["192.0.2.0/24"], "[64:ff9b::192.0.2.1]", [], DENIED, Reason.NO_RULE, None, []),
        (["*"], "[64:ff9b::127.0.0.1]", [], DENIED, Reason.NOT_REMOTE, None, []),
        (["*"], "[64:ff9b::192.0.2.99]", [], DENIED, Reason.NOT_REMOTE, None, []),
        # `*` is remote
        (["*"], "192.0.2.1", [], ALLOWED, Reason.RULE, 1, ["192.0.2.1"]),
        (["*"], "127.0.0.1", [], DENIED, Reason.NOT_REMOTE, None, []),
        (["*"], "169.254.169.254", [], DENIED, Reason.NOT_REMOTE, None, []),
        (["*"], "0.0.0.0", [], DENIED, Reason.NOT_REMOTE, None, []),
        (["*"], "224.0.0.1", [], DENIED, Reason.NOT_REMOTE, None, []),
        (["*"], "[::1]", [], DENIED, Reason.NOT_REMOTE, None, []),
        (["*"], "[fe80::1]", [], DENIED, Reason.NOT_REMOTE, None, []),
        (["*"], "192.0.2.99", [], DENIED, Reason.NOT_REMOTE, None, []),
        (["*"], "168.63.129.16", [], DENIED, Reason.NOT_REMOTE, None, []),
        (["*"], "100.100.100.200", [], DENIED, Reason.NOT_REMOTE, None, []),
        (["*"], "192.0.0.192", [], DENIED, Reason.NOT_REMOTE, None, []),
        (["*"], "[fd00:ec2::254]", [], DENIED, Reason.NOT_REMOTE, None, []),
        (["*"], "[fd20:ce::254]", [], DENIED, Reason.NOT_REMOTE, None, []),
        (["*"], "[2001:db8::99]", [], DENIED, Reason.NOT_REMOTE, None, []),
        (["*"], "rebound.example", ["127.0.0.1", "192.0.2.1"], ALLOWED, Reason.RULE, 1, ["192.0.2.1"]),
        (["*"], "rebound.example", ["169.254.169.254"], DENIED, Reason.NOT_REMOTE, None, []),
        (["169.254.169.254", "*"], "169.254.169.254", [], ALLOWED, Reason.RULE, 1, ["169.254.169.254"]),
        (["192.0.2.99", "*"], "192.0.2.99", [], ALLOWED, Reason.RULE, 1, ["192.0.2.99"]),
        (["localhost", "*"], "localhost", ["127.0.0.1"], ALLOWED, Reason.RULE, 1, ["127.0.0.1"]),
    ],
)  # fmt: skip
def test_the_first_match_decides(
    lines: list[str],
    host: str,
    addresses: list[str],
    verdict: Verdict,
    reason: Reason,
    line: int | None,
    dialled: list[str],
) -> None:
    decision = judged(lines, host, *addresses)
    assert (decision.verdict, decision.reason) == (verdict, reason)
    assert (decision.rule and decision.rule.line) == line
    assert list(map(str, decision.addresses)) == dialled


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.8.8", "0.0.0.0", "[::1]", "[::]", "192.0.2.99", "[2001:db8::99]"]
)
def test_own_ports_are_never_dialled(host: str) -> None:
    lines = ["0.0.0.0/0", "::/0", "*"]
    for port in (8080, 9797):
        decision = judged(lines, host, port=port)
        assert (decision.verdict, decision.reason) == (DENIED, Reason.OWN_PORT)
        assert on_trial(decision, decision.addresses, OWN) is decision
    assert judged(lines, host, port=8081).verdict is ALLOWED
    assert judged(lines, "198.51.100.1", port=8080).verdict is ALLOWED


@pytest.mark.parametrize(
    ("lines", "name", "line", "reason"),
    [
        (["!a.example", "*"], "a.example", 1, Reason.RULE),
        (["!10.0.0.0/8", "!a.example", "*"], "a.example", 2, Reason.RULE),
        (["b.example", "!10.0.0.0/8"], "a.example", None, Reason.NO_RULE),
        (["10.0.0.0/8:80"], "a.example", None, Reason.NO_RULE),
    ],
)
def test_names_whose_addresses_do_not_matter_are_decided_without_them(
    lines: list[str], name: str, line: int | None, reason: Reason
) -> None:
    decision = policy(*lines).by_name(name, 443)
    assert decision is not None
    assert (decision.verdict, decision.reason) == (DENIED, reason)
    assert (decision.rule and decision.rule.line) == line


@pytest.mark.parametrize("lines", [["a.example"], ["*"], ["10.0.0.0/8"], ["10.0.0.0/8", "!a.example"]])
def test_names_whose_addresses_matter_are_left_open(lines: list[str]) -> None:
    assert policy(*lines).by_name("a.example", 443) is None


@pytest.mark.parametrize(
    ("lines", "full_name", "verdict", "line"),
    [
        (["!*.corp.example.com", "*"], "intranet.corp.example.com", DENIED, 1),
        (["!*.corp.example.com", "*"], "intranet.svc.cluster.local", ALLOWED, 2),
        (["!*.corp.example.com", "*"], "intranet", ALLOWED, 2),
        (["*.corp.example.com"], "intranet.corp.example.com", ALLOWED, 1),
        (["*.corp.example.com"], "intranet.other.example", DENIED, None),
        (["intranet", "!*.corp.example.com"], "intranet.corp.example.com", ALLOWED, 1),
        (["!intranet", "*"], "intranet.corp.example.com", DENIED, 1),
        (["192.0.2.0/24", "!*.corp.example.com"], "intranet.corp.example.com", ALLOWED, 1),
    ],
)
def test_a_short_name_is_judged_as_what_it_stands_for(
    lines: list[str], full_name: str, verdict: Verdict, line: int | None
) -> None:
    addresses = (ip_address("192.0.2.1"),)
    decision = policy(*lines).by_addresses("intranet", 80, addresses, OWN, full_name)
    assert decision.verdict is verdict
    assert (decision.rule and decision.rule.line) == line
    assert decision.full_name == (None if full_name == "intranet" else full_name)
    early = policy(*lines).by_name("intranet", 80, full_name)
    assert early is None or early.verdict is verdict is DENIED


def test_a_short_name_is_denied_before_it_is_looked_up_where_all_its_candidates_are() -> None:
    candidates = ("a.svc.example", "a.corp.example", "a")
    assert policy("!*.corp.example", "*").by_candidates("a", 80, candidates) is None
    denied = policy("!*.corp.example", "b.example").by_candidates("a", 80, candidates)
    assert denied is not None
    assert explanation(denied) == "line 1 (!*.corp.example) denies it as a.corp.example"
    assert policy("b.example").by_candidates("a", 80, candidates) == Decision(DENIED, Reason.NO_RULE)
    assert policy("!a", "*").by_candidates("a", 80, candidates) is not None


def test_report_only_goes_on_to_what_is_remote() -> None:
    addresses = (ip_address("192.0.2.1"), ip_address("127.0.0.1"))
    denied = policy("b.example").by_addresses("a.example", 80, addresses, OWN)
    reported = on_trial(denied, addresses, OWN)
    assert (reported.verdict, reported.reason) == (Verdict.REPORTED, Reason.NO_RULE)
    assert reported.addresses == addresses[:1]
    assert on_trial(denied, addresses[1:], OWN) is denied


def test_everything_does_not_cover_the_neighbours_on_the_pods_own_side() -> None:
    near = frozenset({ip_network("10.128.2.0/23"), ip_network("fd01::/64")})
    own = Own(frozenset(), frozenset(), near)

    def verdict(address: str, *lines: str) -> Verdict:
        return policy(*lines).by_addresses(ip_address(address), 10250, (ip_address(address),), own).verdict

    for address in ("10.128.2.1", "fd01::1", "64:ff9b::10.128.3.7", "2001:db8::5efe:10.128.2.1"):
        assert verdict(address, "*") is DENIED
        assert verdict(address, address, "*") is ALLOWED
    assert verdict("10.128.4.1", "*") is ALLOWED
    assert verdict("fd02::1", "*") is ALLOWED


def test_connect_ports() -> None:
    assert connect_port(22, None) is None
    assert connect_port(443, frozenset({443})) is None
    decision = connect_port(22, frozenset({443}))
    assert decision == Decision(DENIED, Reason.CONNECT_PORT)


def test_every_reason_has_words() -> None:
    rule = parse("RULES", "!x.example").rules[0]
    assert explanation(Decision(DENIED, Reason.RULE, rule)) == "line 1 (!x.example) denies it"
    assert all(explanation(Decision(DENIED, reason)) for reason in Reason)
