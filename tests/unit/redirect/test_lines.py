"""Where a line with a name leads: pure, by parameters."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.grammar.redirect import NamedRedirect, parse
from egress_router.redirect.lines import (
    UDP_GRACE_SECONDS,
    Departure,
    Departures,
    checked_port,
    destination,
    in_order,
    serving,
    shown_address,
)

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress


def line(text: str) -> NamedRedirect:
    (found,) = parse("R", text).names
    return found


def addresses(*texts: str) -> tuple[IPAddress, ...]:
    return tuple(map(ip_address, texts))


@pytest.mark.parametrize(
    ("text", "named", "checked", "shown"),
    [
        ("443 tcp db.example.com", "db.example.com:443/tcp", 443, "192.0.2.1:443"),
        ("8443 tcp db.example.com 443", "db.example.com:443/tcp", 443, "192.0.2.1:443"),
        ("514 udp db.example.com", "db.example.com:514/udp", None, "192.0.2.1:514"),
        ("132 sctp db.example.com 133", "db.example.com:133/sctp", None, "192.0.2.1:133"),
        ("5000-5100 tcp db.example.com", "db.example.com:5000-5100/tcp", None, "192.0.2.1"),
    ],
)
def test_what_a_line_leads_to_and_where_it_is_checked(
    text: str, named: str, checked: int | None, shown: str
) -> None:
    each = line(text)
    assert (destination(each), checked_port(each)) == (named, checked)
    assert shown_address(each, ip_address("192.0.2.1")) == shown


def test_addresses_have_an_order_of_their_own() -> None:
    assert in_order(addresses("2001:db8::1", "192.0.2.9", "192.0.2.10")) == addresses(
        "192.0.2.9", "192.0.2.10", "2001:db8::1"
    )


@pytest.mark.parametrize(
    ("down", "left"),
    [
        ((), ("192.0.2.1", "192.0.2.2", "2001:db8::1")),
        (("192.0.2.1",), ("192.0.2.2", "2001:db8::1")),
        # All of a family are down: then they all serve, whatever the other one does.
        (("192.0.2.1", "192.0.2.2"), ("192.0.2.1", "192.0.2.2", "2001:db8::1")),
        (("192.0.2.2", "2001:db8::1"), ("192.0.2.1", "2001:db8::1")),
    ],
)
def test_what_is_down_gets_no_new_connection(down: tuple[str, ...], left: tuple[str, ...]) -> None:
    known = addresses("192.0.2.1", "192.0.2.2", "2001:db8::1")
    dead = {(address, 443) for address in addresses(*down)}
    assert serving(line("443 tcp db.example.com"), known, lambda each: each not in dead) == addresses(*left)
    assert serving(line("443 udp db.example.com"), known, lambda each: each not in dead) == known


UDP = line("514 udp logs.example.net")
OLD, NEW = addresses("192.0.2.1"), addresses("192.0.2.2")


def test_udp_flows_are_moved_when_their_address_is_gone_for_a_while() -> None:
    departures = Departures()
    departures.note(UDP, OLD, NEW, 1000.0)
    departures.note(UDP, NEW, NEW, 1010.0)
    late = 1000.0 + UDP_GRACE_SECONDS
    assert departures.due(late - 0.1, {UDP: NEW}) == []
    assert departures.due(late, {UDP: NEW}) == [Departure(UDP, OLD[0])]
    departures.forget([Departure(UDP, OLD[0])])
    assert departures.due(late, {UDP: NEW}) == []
    assert UDP_GRACE_SECONDS < 30


def test_an_address_that_comes_back_keeps_its_flows() -> None:
    departures = Departures()
    departures.note(UDP, OLD, NEW, 1000.0)
    departures.note(UDP, NEW, OLD + NEW, 1010.0)
    assert departures.due(2000.0, {UDP: OLD + NEW}) == []


def test_flows_stay_while_there_is_nothing_to_move_them_to() -> None:
    departures = Departures()
    departures.note(UDP, OLD, (), 1000.0)
    assert departures.due(2000.0, {UDP: ()}) == []
    assert departures.due(2001.0, {UDP: addresses("2001:db8::1")}) == []
    assert departures.due(2002.0, {UDP: NEW}) == [Departure(UDP, OLD[0])]


def test_tcp_connections_and_lines_that_are_gone_are_never_moved() -> None:
    departures, tcp = Departures(), line("514 tcp logs.example.net")
    departures.note(tcp, OLD, NEW, 1000.0)
    departures.note(UDP, OLD, NEW, 1000.0)
    assert departures.due(2000.0, {tcp: NEW}) == []
    assert departures.due(2000.0, {tcp: NEW, UDP: NEW}) == []
