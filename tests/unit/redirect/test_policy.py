"""What an egress policy denies of redirect lines, and when open connections to there end."""

from __future__ import annotations

import json
from ipaddress import ip_address

from egress_router.grammar.redirect import Protocol, Redirects, parse
from egress_router.manifests import egress_policy
from egress_router.policy.egress_policy import names_of
from egress_router.policy.redirected import Denial
from egress_router.redirect.policy import Cuts, denials
from egress_router.settings.policy import Guarded

ONE, TWO, THREE = map(ip_address, ("203.0.113.1", "203.0.113.2", "203.0.113.3"))
DENY_ALL = {"type": "Deny", "to": {"cidrSelector": "0.0.0.0/0"}}
ALLOW_NAME = {"type": "Allow", "to": {"dnsName": "www.example.com"}}


def guarded(rules: str, *entries: object) -> Guarded[Redirects]:
    kind = {"kind": "EgressNetworkPolicy", "apiVersion": "v1", "spec": {"egress": entries}}
    return Guarded(parse("R", rules), egress_policy.parse("P", json.dumps(kind)))


def test_lines_names_and_fallbacks_are_judged_where_they_lead() -> None:
    given = guarded(f"80 tcp {ONE} 8080\n500-600 udp db.example.com\n{THREE}\n", DENY_ALL)
    (line,) = given.rules.names
    found = denials(given, {line: (TWO,)}, {})
    assert Denial(ONE, Protocol.TCP, 8080, 8080, 1) in found
    assert Denial(TWO, Protocol.UDP, 500, 600, 1) in found
    assert {each.protocol for each in found if each.address == THREE} == {*Protocol, None}
    assert len(found) == 2 + len(Protocol) + 1
    assert denials(Guarded(given.rules, None), {line: (TWO,)}, {}) == ()


def test_an_entry_by_name_means_the_addresses_that_the_name_has_now() -> None:
    given = guarded(f"80 tcp {ONE}\n", ALLOW_NAME, DENY_ALL)
    assert len(denials(given, {}, {})) == 1
    assert denials(given, {}, names_of({"www.example.com": (ONE,)})) == ()
    assert len(denials(given, {}, names_of({"www.example.com": (TWO,)}))) == 1


def test_a_line_to_a_name_that_an_entry_names_leads_to_that_name() -> None:
    given = guarded("80 tcp www.example.com\n", ALLOW_NAME, DENY_ALL)
    (line,) = given.rules.names
    assert denials(given, {line: (ONE,)}, names_of({"www.example.com": (TWO,)})) == ()


def test_connections_are_cut_when_their_time_is_over_and_only_while_they_are_denied() -> None:
    one, two = (Denial(each, Protocol.TCP, 80, 80, 1) for each in (ONE, TWO))
    renumbered = Denial(ONE, Protocol.TCP, 80, 80, 7)
    cuts = Cuts(25.0)
    cuts.note([one, two], 0.0)
    assert cuts.due(24.9) == []
    # The same destination, denied by another entry; the other destination is allowed again.
    cuts.note([renumbered], 10.0)
    assert [each.address for each in cuts.due(25.0)] == [ONE]
    cuts.forget(cuts.due(25.0))
    assert cuts.due(100.0) == []
    cuts.note([renumbered], 100.0)
    assert cuts.due(1000.0) == []
    cuts.note([renumbered, two], 1000.0)
    assert [each.address for each in cuts.due(1025.0)] == [TWO]
