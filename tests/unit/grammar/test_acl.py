from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.errors import ConfigError
from egress_router.grammar.acl import (
    AccessList,
    Domain,
    Everything,
    Rule,
    Subject,
    parse,
    printed_access_list,
)
from egress_router.grammar.leaving import Spread

SOURCE = "EGRESS_HTTP_PROXY_DESTINATION"


def errors(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(SOURCE, text)
    return [problem.removeprefix(f"{SOURCE} ") for problem in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    ("text", "allows", "subject", "port"),
    [
        ("*", True, Everything(), None),
        ("www.Example.org", True, Domain("www.example.org", below=False), None),
        ("*.example.com", True, Domain("example.com", below=True), None),
        ("!*.bad.example.com", False, Domain("bad.example.com", below=True), None),
        ("! *.bad.example.com", False, Domain("bad.example.com", below=True), None),
        ("bücher.example:443", True, Domain("xn--bcher-kva.example", below=False), 443),
        ("intranet", True, Domain("intranet", below=False), None),
        ("cafe.de", True, Domain("cafe.de", below=False), None),
        ("192.168.1.1", True, ip_network("192.168.1.1/32"), None),
        ("192.168.1.1:8080", True, ip_network("192.168.1.1/32"), 8080),
        ("!10.0.0.0/8", False, ip_network("10.0.0.0/8"), None),
        ("10.1.2.3/8:80", True, ip_network("10.0.0.0/8"), 80),
        ("fe80::/10", True, ip_network("fe80::/10"), None),
        ("2001:db8::1", True, ip_network("2001:db8::1/128"), None),
        ("[2001:db8::1]:443", True, ip_network("2001:db8::1/128"), 443),
        ("[2001:db8::]/32:443", True, ip_network("2001:db8::/32"), 443),
        ("[2001:db8::]/32", True, ip_network("2001:db8::/32"), None),
        ("::ffff:10.0.0.1", True, ip_network("10.0.0.1/32"), None),
    ],
)
def test_every_form_of_a_rule(text: str, allows: bool, subject: Subject, port: int | None) -> None:
    rule = Rule(2, text.replace(" ", ""), allows, subject, port)
    assert parse(SOURCE, f"# first\n{text}  # why\n").rules == (rule,)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("!", "expected NAME, *.DOMAIN"),
        ("a.example b.example", "expected NAME, *.DOMAIN"),
        ("!*", "`*` takes no `!` and no port"),
        ("*:443", "`*` takes no `!` and no port"),
        ("www.*.example", "expected `*` alone, or first"),
        ("*example.com", "expected `*` alone, or first"),
        ("*.", "host name '' is empty"),
        ("https://www.example.com", "expected a host, not a URL"),
        ("www.example.com/path", "not an IP address"),
        ("example.com:0", "invalid port '0'"),
        ("example.com:", "invalid port ''"),
        ("127.1", "ambiguous IPv4 spelling"),
        ("10.0.0.0/33", "prefix length 33 is not from 0 to 32"),
        ("fe80::1%eth0", "has a zone"),
        ("-a.example", "is not a host name"),
    ],
)
def test_a_wrong_rule_says_what_was_expected(line: str, words: str) -> None:
    (error,) = errors(f"\n\n{line}")
    assert error.startswith(f"line 3: {line!r}: ")
    assert words in error


@pytest.mark.parametrize("space", ["", " ", "\t", "\r", "\v", "\f", "\x85", "\u2028"])
def test_the_text_of_a_rule_holds_no_white_space(space: str) -> None:
    (rule,) = parse("LIST", f"!{space}127.0.0.1{space}").rules
    assert rule.text == "!127.0.0.1"


def test_the_wildcard_is_the_last_line() -> None:
    assert errors("*\n!a.example") == ["line 1: '*': Wildcard must be last rule, if present"]


def test_all_errors_come_at_once() -> None:
    assert [error.split(":")[0] for error in errors("*\na b\n10.0.0.0/99\nx")] == [
        "line 1",
        "line 2",
        "line 3",
    ]


def test_no_rule_is_an_error() -> None:
    assert "holds no rule" in errors("\n# nothing\n")[0]


SUBJECTS = st.sampled_from(
    [Domain("example.com", below=True), Domain("www.example.com", below=False)]
    + [ip_network(text) for text in ("10.0.0.0/8", "192.168.1.1/32", "fe80::/10", "2001:db8::1/128")]
)
RULES = st.builds(Rule, st.just(0), st.just(""), st.booleans(), SUBJECTS, st.none() | st.integers(1, 65535))


@given(st.lists(RULES, min_size=1, max_size=20), st.booleans())
def test_printed_rules_are_read_back_equal(rules: list[Rule], everything: bool) -> None:
    rules = [*rules, Rule(0, "", True, Everything(), None)] if everything else rules
    again = parse(SOURCE, printed_access_list(AccessList(tuple(rules)))).rules
    assert [(rule.allows, rule.subject, rule.port) for rule in again] == [
        (rule.allows, rule.subject, rule.port) for rule in rules
    ]


@given(st.text(max_size=60))
def test_any_text_is_rules_or_a_configuration_error(text: str) -> None:
    try:
        parse(SOURCE, text)
    except ConfigError:
        return


def test_what_allows_may_say_with_which_address_it_leaves() -> None:
    text = "!bad.example.com\n*.example.com:443 from 192.168.12.99\n192.0.2.0/24 from *\n[2001:db8::]/32:443 from 2001:db8:12::99\n* from *\n"
    sources = [ip_address("192.168.12.99"), ip_address("2001:db8:12::99")]
    parsed = parse(SOURCE, text, sources)
    assert [rule.leaving for rule in parsed.rules] == [None, sources[0], Spread.ALL, sources[1], Spread.ALL]
    assert printed_access_list(parsed) == text
    assert parsed.rules[1].text == "*.example.com:443 from 192.168.12.99"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("!a.example.com from *", "a deny rule makes no connection; remove `from`"),
        (
            "a.example.com from",
            "after `from`, expected one address of EGRESS_SOURCE or `*`, and nothing else",
        ),
        ("from", "after `from`, expected one address of EGRESS_SOURCE or `*`, and nothing else"),
        ("a.example.com from 192.168.12.7", "it is not one of EGRESS_SOURCE (192.168.12.99)"),
        ("2001:db8::/32 from 192.168.12.99", "it is IPv4, and 2001:db8:: is IPv6"),
        ("a.example.com to *", "expected NAME, *.DOMAIN"),
    ],
)
def test_a_wrong_from_says_why(line: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(SOURCE, line, [ip_address("192.168.12.99")])
    assert reason in str(caught.value)
