"""Lines of EGRESS_DESTINATION: what they may say, and what is wrong with those that are refused."""

from __future__ import annotations

import sys
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.errors import ConfigError
from egress_router.grammar.redirect import (
    NamedRedirect,
    Protocol,
    Redirect,
    Redirects,
    parse,
    printed_redirects,
)
from tests.unit.grammar.redirect_errors import SOURCE, errors

if TYPE_CHECKING:
    from types import FrameType

    from _typeshed import TraceFunction


def test_every_form_of_a_line() -> None:
    text = """
# Egress routes for Project "Test", version 3

80   tcp 203.0.113.25
\t8080\ttcp\t203.0.113.26\t80   # the partner
53   UDP 203.0.113.53
132  sctp 203.0.113.54
5000-5100 tcp 203.0.113.28
443  tcp 2001:db8::25
80   udp 203.0.113.25

# Fallback
203.0.113.27
2001:db8::27
"""
    v4 = IPv4Address
    assert parse(SOURCE, text) == Redirects(
        (
            Redirect(Protocol.TCP, 80, 80, v4("203.0.113.25"), None),
            Redirect(Protocol.TCP, 8080, 8080, v4("203.0.113.26"), 80),
            Redirect(Protocol.UDP, 53, 53, v4("203.0.113.53"), None),
            Redirect(Protocol.SCTP, 132, 132, v4("203.0.113.54"), None),
            Redirect(Protocol.TCP, 5000, 5100, v4("203.0.113.28"), None),
            Redirect(Protocol.TCP, 443, 443, IPv6Address("2001:db8::25"), None),
            Redirect(Protocol.UDP, 80, 80, v4("203.0.113.25"), None),
        ),
        v4("203.0.113.27"),
        IPv6Address("2001:db8::27"),
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("80 sctpp 10.4.5.6", "unknown protocol 'sctpp' (tcp, udp or sctp)"),
        ("0 tcp 10.4.5.6", "invalid port '0' (a number from 1 to 65535)"),
        ("65536 tcp 10.4.5.6", "invalid port '65536' (a number from 1 to 65535)"),
        ("80 tcp 10.4.5.6 http", "invalid port 'http' (a number from 1 to 65535)"),
        ("90-80 tcp 10.4.5.6", "the range '90-80' ends before it begins"),
        ("80-90 tcp 10.4.5.6 80", "a range goes to the same ports; leave out the remote port"),
        ("80 tcp bank", "the name 'bank' has no dot; expected a full name such as db.example.com"),
        (
            "80 tcp 10.4.5",
            "ambiguous IPv4 spelling '10.4.5' (four decimal numbers from 0 to 255 without leading zeros)",
        ),
        ("80 tcp 10.4.5.6 from", "`from` ends a line, with one address of EGRESS_SOURCE or `*` behind it"),
        (
            "80 tcp 10.4.5.6 from 1.2.3.4 80",
            "`from` ends a line, with one address of EGRESS_SOURCE or `*` behind it",
        ),
        (
            "80 tcp 10.4.5.6 from me",
            "`from`: 'me' is not an IP address; expected an address of EGRESS_SOURCE, or `*`",
        ),
        (
            "80 tcp 10.4.5.6 from 2001:db8::99",
            "`from 2001:db8::99`: it is IPv6, and 10.4.5.6 is IPv4",
        ),
        ("80 tcp 127.0.0.1", "'127.0.0.1' is not the address of an external server (loopback)"),
        ("80 tcp ::1", "'::1' is not the address of an external server (loopback)"),
        ("80 tcp 64:ff9b::7f00:1", "'64:ff9b::7f00:1' is not the address of an external server (loopback)"),
        ("80 tcp 0.0.0.0", "'0.0.0.0' is not the address of an external server (unspecified)"),
        ("80 tcp 224.0.0.1", "'224.0.0.1' is not the address of an external server (multicast)"),
        ("80 tcp ff02::1", "'ff02::1' is not the address of an external server (multicast)"),
        ("80 tcp 255.255.255.255", "'255.255.255.255' is not the address of an external server (broadcast)"),
        ("80 tcp fe80::1", "'fe80::1' is not the address of an external server (link-local)"),
    ],
)
def test_a_wrong_line_says_what_and_why(line: str, reason: str) -> None:
    assert errors(f"# first\n\n{line}") == [f"line 3: {line!r}: {reason}"]


def test_a_target_may_be_a_name() -> None:
    text = "443 tcp DB.example.com.\n8443 tcp db.example.com 443\n514 udp logs.example.net\n5000-5100 tcp c.example\n1.2.3.4\n"
    parsed = parse(SOURCE, text)
    assert parsed.rules == ()
    assert parsed.names == (
        NamedRedirect(Protocol.TCP, 443, 443, "db.example.com", None),
        NamedRedirect(Protocol.TCP, 8443, 8443, "db.example.com", 443),
        NamedRedirect(Protocol.UDP, 514, 514, "logs.example.net", None),
        NamedRedirect(Protocol.TCP, 5000, 5100, "c.example", None),
    )
    assert [rule.line for rule in parsed.names] == [1, 2, 3, 4]


@pytest.mark.parametrize("other", ["80 tcp 1.2.3.4", "80 tcp 2001:db8::1", "80 tcp other.example.com"])
def test_a_name_may_have_both_families_so_its_port_is_taken_in_both(other: str) -> None:
    for text in (f"80 tcp db.example.com\n{other}", f"{other}\n80 tcp db.example.com"):
        (error,) = errors(text)
        assert "localport 80 is already used for tcp on line 1" in error


def test_a_wrong_fallback_says_only_that() -> None:
    assert len(errors("1.2.3.4\n2001:db8::1 from nowhere")) == 1


@pytest.mark.parametrize(
    "line", ["80 tcp", "80 tcp 1.2.3.4 80 90", "80", "80-90", "tcp", "1.2.3", "10.0.0.0/8", "example.com"]
)
def test_what_is_no_rule_at_all_is_told_the_forms(line: str) -> None:
    (error,) = errors(line)
    assert error.endswith(
        "expected PORT PROTOCOL TARGET [REMOTE_PORT], FIRST-LAST PROTOCOL TARGET, or a fallback ADDRESS"
        " (TARGET: an address or a full name; `from SOURCE` may end a line)"
    )


def test_all_errors_come_at_once() -> None:
    assert [error.split(":")[0] for error in errors("0 tcp 1.2.3.4\n80 tcp 1.2.3.4\n80 xyz 1.2.3.4\nx")] == [
        "line 1", "line 3", "line 4",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["80 tcp 1.2.3.4\n80 tcp 1.2.3.5", "80-90 tcp 1.2.3.4\n85 tcp 1.2.3.5", "85 tcp 1.2.3.4\n80-90 tcp 1.2.3.5",
     "80-90 tcp 1.2.3.4\n90-99 tcp 1.2.3.5"],
)  # fmt: skip
def test_a_local_port_may_appear_once(text: str) -> None:
    (error,) = errors(text)
    assert error.startswith("line 2")
    assert "is already used for tcp on line 1, must be unique" in error


def test_the_port_that_is_taken_is_named_with_its_line() -> None:
    text = "1-9 tcp 1.2.3.4\n20-29 tcp 1.2.3.4\n15 tcp 1.2.3.4\n10-19 tcp 1.2.3.4\n65535 tcp 1.2.3.4\n29-65535 tcp 1.2.3.4"
    assert errors(text) == [
        "line 4: '10-19 tcp 1.2.3.4': localport 15 is already used for tcp on line 3, must be unique for each protocol and family",
        "line 6: '29-65535 tcp 1.2.3.4': localport 29 is already used for tcp on line 2, must be unique for each protocol and family",
    ]


def steps_to_parse(count: int) -> int:
    """Return how many lines of Python the grammar runs for so many ranges."""
    text = "".join(f"{first}-{first + 1} tcp 203.0.113.25\n" for first in range(1, 2 * count, 2))
    steps = 0

    def trace(frame: FrameType, event: str, _: object) -> TraceFunction:
        nonlocal steps
        steps += event == "line" and "egress_router" in frame.f_code.co_filename
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        parse(SOURCE, text)
    finally:
        sys.settrace(before)
    return steps


def test_ranges_are_not_compared_with_each_other() -> None:
    assert steps_to_parse(800) < 2.5 * steps_to_parse(400)


def test_a_port_may_serve_both_protocols_and_both_families() -> None:
    assert len(parse(SOURCE, "53 tcp 1.2.3.4\n53 udp 1.2.3.4\n53 tcp 2001:db8::1").rules) == 3


@pytest.mark.parametrize(
    "text", ["1.2.3.4\n80 tcp 1.2.3.4", "1.2.3.4\n1.2.3.5", "2001:db8::1\n1.2.3.4\n2001:db8::2"]
)
def test_a_fallback_is_the_last_line(text: str) -> None:
    (error,) = errors(text)
    assert "line 1" in error
    assert "fallback IP must be the last line" in error


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n"])
def test_no_rule_at_all_is_an_error(text: str) -> None:
    assert "holds no rule" in errors(text)[0]


def test_link_local_ipv4_is_a_destination_because_clouds_serve_metadata_there() -> None:
    assert parse(SOURCE, "80 tcp 169.254.169.254").rules[0].target == IPv4Address("169.254.169.254")


TARGETS = st.sampled_from([ip_address(text) for text in ("203.0.113.25", "10.0.0.1", "2001:db8::25")])


@st.composite
def rules(draw: st.DrawFn) -> Redirects:
    firsts = draw(st.lists(st.integers(1, 65000), unique_by=lambda port: port // 50, max_size=20))
    made = []
    for first in firsts:
        last = draw(st.sampled_from([first, first // 50 * 50 + 49]))
        same = last != first or draw(st.booleans())
        port = None if same else draw(st.integers(1, 65535))
        made.append(Redirect(draw(st.sampled_from(list(Protocol))), first, last, draw(TARGETS), port))
    fallback_v4 = (
        draw(st.sampled_from([None, IPv4Address("203.0.113.27")])) if made else IPv4Address("203.0.113.27")
    )
    fallback_v6 = draw(st.sampled_from([None, IPv6Address("2001:db8::27")]))
    return Redirects(tuple(made), fallback_v4, fallback_v6)


@given(rules())
def test_printed_rules_are_read_back_equal(redirects: Redirects) -> None:
    assert parse(SOURCE, printed_redirects(redirects)) == redirects


@given(st.text(alphabet="0123456789 .:-#tcpudsabf\t\n", max_size=80))
def test_any_text_is_rules_or_a_configuration_error(text: str) -> None:
    try:
        parse(SOURCE, text)
    except ConfigError:
        return
