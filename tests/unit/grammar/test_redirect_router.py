"""Lines of EGRESS_DESTINATION for a certain router: its addresses, its administration port, whether it stays."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from egress_router.grammar.leaving import Spread
from egress_router.grammar.redirect import Router, parse, printed_redirects
from tests.unit.grammar.redirect_errors import SOURCE, errors

V4, V6 = IPv4Address("192.168.12.99"), IPv6Address("2001:db8:12::99")
DUAL = Router(frozenset({V4, IPv4Address("192.168.12.100"), V6}))


def test_a_name_needs_a_router_that_stays() -> None:
    (error,) = errors("80 tcp db.example.com", Router(follows_names=False))
    assert error == (
        "line 1: '80 tcp db.example.com': a name needs EGRESS_ROUTER_MODE=legacy, because somebody has to follow it;"
        " give an address, or change the mode"
    )


def test_every_line_may_say_with_which_address_it_leaves() -> None:
    text = (
        "80 tcp 1.2.3.4 from 192.168.12.99\n81 tcp 1.2.3.4 80 from *\n82-83 udp 2001:db8::1 from 2001:db8:12::99\n"
        "84 tcp db.example.com from 192.168.12.100\n85 tcp 1.2.3.4\n1.2.3.5 FROM *\n2001:db8::5 from 2001:db8:12::99"
    )
    parsed = parse(SOURCE, text, DUAL)
    assert [rule.leaving for rule in parsed.rules] == [V4, Spread.ALL, V6, None]
    assert [rule.leaving for rule in parsed.names] == [IPv4Address("192.168.12.100")]
    assert (parsed.fallback_v4_leaving, parsed.fallback_v6_leaving) == (Spread.ALL, V6)
    assert printed_redirects(parsed) == text.replace("FROM", "from") + "\n"


@pytest.mark.parametrize("line", ["80 tcp 1.2.3.4", "80 tcp db.example.com", "1.2.3.4"])
def test_a_line_leaves_with_an_address_of_this_router(line: str) -> None:
    (error,) = errors(f"{line} from 192.168.12.7", Router(frozenset({V4})))
    assert error.endswith(": `from 192.168.12.7`: it is not one of EGRESS_SOURCE (192.168.12.99)")
    parse(SOURCE, f"{line} from 192.168.12.7")  # without a known router it is not checked


def test_a_line_of_a_family_without_a_source_address_is_refused() -> None:
    text = "80 tcp 203.0.113.25\n80 tcp 2001:db8::25\n203.0.113.27\n2001:db8::27"
    assert errors(text, Router(frozenset({V4}))) == [
        "line 2: '80 tcp 2001:db8::25': EGRESS_SOURCE has no IPv6 address, with which 2001:db8::25 could be reached",
        "line 4: '2001:db8::27': EGRESS_SOURCE has no IPv6 address, with which 2001:db8::27 could be reached",
    ]
    assert [error.split(":")[0] for error in errors(text, Router(frozenset({V6})))] == ["line 1", "line 3"]
    assert len(parse(SOURCE, text, Router(frozenset({V4, V6}))).rules) == 2
    assert len(parse(SOURCE, text, Router(None)).rules) == 2


def test_the_source_is_no_destination() -> None:
    found = errors(f"80 tcp {V4}\n{V4}", Router(frozenset({V4})))
    assert len(found) == 2
    assert all("192.168.12.99 is EGRESS_SOURCE itself" in each for each in found)


@pytest.mark.parametrize("ports", ["9797", "9797-9800", "9700-9797", "1-65535"])
def test_a_line_that_takes_the_administration_port_is_refused(ports: str) -> None:
    text = f"{ports} tcp 203.0.113.25"
    (error,) = errors(text, Router(admin_port=9797))
    assert error == (
        f"line 1: {text!r}: tcp port 9797 is the administration port, which is never redirected;"
        " choose another port, or set EGRESS_ADMIN_PORT to another one, or to 0 to turn it off"
    )
    assert parse(SOURCE, text, Router(admin_port=0)).rules
    assert parse(SOURCE, text.replace("tcp", "udp"), Router(admin_port=9797)).rules


def test_other_ports_and_a_fallback_leave_the_administration_port_alone() -> None:
    assert parse(
        SOURCE, "9796 tcp 1.2.3.4 9797\n9798-9800 tcp 1.2.3.4\n1.2.3.5", Router(admin_port=9797)
    ).rules


def test_all_faults_of_one_line_are_said() -> None:
    found = errors("9797 tcp 1.2.3.4\n9797 tcp 1.2.3.5", Router(frozenset({V6}), 9797))
    assert [error.split(":")[0] for error in found] == ["line 1"] * 2 + ["line 2"] * 3
