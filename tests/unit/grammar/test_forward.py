from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.errors import ConfigError
from egress_router.grammar.forward import Forward, Forwards, parse, printed_forwards
from egress_router.grammar.leaving import Spread

SOURCE = "EGRESS_DNS_PROXY_DESTINATION"


def errors(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(SOURCE, text)
    return [problem.removeprefix(f"{SOURCE} ") for problem in str(caught.value).splitlines()]


def test_every_form_of_a_line() -> None:
    text = """
# Egress routes for Project "Foo", version 5

80  203.0.113.25

100 Example.COM.

8080\t203.0.113.26\t80   # the partner
8443 foobar.com 443
9000 2001:db8::25 443
"""
    assert parse(SOURCE, text).lines == (
        Forward(80, ip_address("203.0.113.25"), 80),
        Forward(100, "example.com", 100),
        Forward(8080, ip_address("203.0.113.26"), 80),
        Forward(8443, "foobar.com", 443),
        Forward(9000, ip_address("2001:db8::25"), 443),
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("80", "expected PORT ADDRESS [REMOTE_PORT] or PORT NAME [REMOTE_PORT]"),
        ("80 tcp 203.0.113.25 80", "expected PORT ADDRESS"),
        ("http example.com", "invalid port 'http'"),
        ("80 example.com 0", "invalid port '0'"),
        ("80 db.example.com from", "after `from`, expected one address"),
        ("80 203.0.113.25 from 2001:db8::99", "it is IPv6, and 203.0.113.25 is IPv4"),
        ("80 intranet", "the name 'intranet' has no dot"),
        ("80 127.1", "ambiguous IPv4 spelling"),
        ("80 exa_mple..com", "is not a host name"),
        ("80 0.0.0.0", "is not the address of a server (unspecified)"),
        ("80 ff02::1", "is not the address of a server (multicast)"),
        ("80 255.255.255.255", "is not the address of a server (broadcast)"),
        ("80 fe80::1", "is not the address of a server (link-local)"),
        ("80 http://example.com", "is not an IP address"),
    ],
)
def test_a_wrong_line_says_what_was_expected(line: str, words: str) -> None:
    (error,) = errors(f"\n{line}")
    assert error.startswith(f"line 2: {line!r}: ")
    assert words in error


def test_a_local_port_appears_once_and_all_errors_come_at_once() -> None:
    assert [error.split(":")[0] for error in errors("80 a.example\n80 b.example\n0 c.example")] == [
        "line 2",
        "line 3",
    ]


def test_the_administration_port_is_taken() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(SOURCE, "80 a.example\n9797 a.example", 9797)
    assert str(caught.value).startswith(
        f"{SOURCE} line 2: '9797 a.example': port 9797 is the administration port; choose another port"
    )
    assert len(parse(SOURCE, "9797 127.0.0.1").lines) == 1


def test_no_line_is_an_error() -> None:
    assert "holds no rule" in errors("# nothing\n")[0]


TARGETS = st.sampled_from([ip_address("203.0.113.25"), ip_address("2001:db8::25"), "db.example.com"])


@given(
    st.dictionaries(st.integers(1, 65535), st.tuples(TARGETS, st.integers(1, 65535)), min_size=1, max_size=30)
)
def test_printed_lines_are_read_back_equal(lines: dict[int, tuple[str, int]]) -> None:
    forwards = Forwards(tuple(Forward(port, target, remote) for port, (target, remote) in lines.items()))
    assert parse(SOURCE, printed_forwards(forwards)) == forwards


@given(st.text(max_size=60))
def test_any_text_is_lines_or_a_configuration_error(text: str) -> None:
    try:
        parse(SOURCE, text)
    except ConfigError:
        return


def test_a_line_may_say_with_which_address_it_leaves() -> None:
    text = "80 db.example.com 80 from 192.168.12.99\n81 203.0.113.25 443 from *\n82 203.0.113.25 82\n"
    sources = (ip_address("192.168.12.99"),)
    parsed = parse(SOURCE, text, sources=sources)
    assert [line.leaving for line in parsed.lines] == [sources[0], Spread.ALL, None]
    assert printed_forwards(parsed) == text


@pytest.mark.parametrize(
    ("sources", "reason"),
    [
        ([], "`from` needs EGRESS_SOURCE in the environment, and it is not set"),
        (["192.168.12.99"], "`from 192.168.12.7`: it is not one of EGRESS_SOURCE (192.168.12.99)"),
    ],
)
def test_the_address_is_one_of_this_router(sources: list[str], reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(SOURCE, "80 db.example.com from 192.168.12.7", sources=[ip_address(each) for each in sources])
    assert str(caught.value).endswith(f": {reason}")
