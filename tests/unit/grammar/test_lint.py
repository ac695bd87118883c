from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.grammar import acl
from egress_router.grammar.lint import access_list


def found(*lines: str) -> list[str]:
    return [str(each) for each in access_list("LIST", acl.parse("LIST", "\n".join(lines)))]


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("a.example", "a.example"),
        ("a.example", "!a.example"),
        ("*.example", "a.example"),
        ("*.a.example", "a.example"),
        ("*.a.example", "!*.b.a.example:443"),
        ("*.a.example:443", "x.a.example:443"),
        ("10.0.0.0/8", "!10.1.0.0/16"),
        ("10.0.0.0/8", "10.1.2.3:80"),
        ("0.0.0.0/0", "192.0.2.1"),
        ("[2001:db8::]/32", "2001:db8::1"),
        ("::ffff:10.0.0.0/104", "10.1.2.3"),
    ],
)
def test_a_line_that_an_earlier_one_covers_never_acts(earlier: str, later: str) -> None:
    (told,) = found(earlier, "other.example.net", later, "*")
    assert told.startswith(f"LIST line 3: {later!r}: never acts: line 1 ({earlier}) ")
    assert ("says the same" in told) is (earlier == later)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("a.example:443", "a.example"),
        ("a.example:443", "a.example:80"),
        ("a.example", "*.a.example"),
        ("*.a.example", "ba.example"),
        ("10.1.0.0/16", "10.0.0.0/8"),
        ("10.0.0.0/8:443", "10.1.2.3"),
        ("0.0.0.0/0", "2001:db8::1"),
        ("0.0.0.0/0", "a.example"),
        ("192.0.2.0/25", "192.0.2.128/25"),
    ],
)
def test_a_line_that_matches_anything_else_acts(earlier: str, later: str) -> None:
    assert not found(earlier, later, "*")


TWO_HALVES = ("10.0.0.0/9", "10.128.0.0/9")


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (TWO_HALVES, "10.0.0.0/8"),
        (TWO_HALVES, "!10.0.0.0/8:443"),
        (("10.128.0.0/9", "9.0.0.0/8", "10.0.0.0/9"), "10.0.0.0/8"),
        (("10.0.0.0/9", "10.128.0.0/9:443"), "10.0.0.0/8:443"),
        (("10.128.0.0/9:443", "10.0.0.0/9"), "10.0.0.0/8:443"),
        (("10.0.0.0/10", "10.64.0.0/10", "10.128.0.0/9"), "10.0.0.0/8"),
        (("[2001:db8::]/33", "[2001:db8:8000::]/33"), "[2001:db8::]/32"),
        (("0.0.0.0/1", "128.0.0.0/1"), "0.0.0.0/0"),
    ],
)
def test_lines_that_together_cover_a_later_one_are_named(earlier: tuple[str, ...], later: str) -> None:
    (told,) = found(*earlier, later, "*")
    assert told.startswith(f"LIST line {len(earlier) + 1}: {later!r}: never acts: line ")
    assert told.endswith(" together cover it, and the first line that matches decides")
    covering = [(line, text) for line, text in enumerate(earlier, start=1) if text != "9.0.0.0/8"]
    assert all(f"line {line} ({text})" in told for line, text in covering)
    assert "9.0.0.0/8" not in told


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (("10.0.0.0/9", "10.128.0.0/10"), "10.0.0.0/8"),
        (("10.0.0.0/9:443", "10.128.0.0/9:443"), "10.0.0.0/8"),
        (("10.0.0.0/9:443", "10.128.0.0/9:80"), "10.0.0.0/8:443"),
        (("0.0.0.0/1", "128.0.0.0/1"), "::/0"),
    ],
)
def test_lines_that_leave_something_of_a_later_one_cover_it_not(earlier: tuple[str, ...], later: str) -> None:
    assert not found(*earlier, later, "*")


def test_of_many_lines_that_cover_one_together_three_are_named() -> None:
    (told,) = found(*(f"10.{n}.0.0/16" for n in range(256)), "10.0.0.0/8", "*")
    assert "never acts: line 1 (10.0.0.0/16), line 2 (10.1.0.0/16), line 3 (10.2.0.0/16) and others " in told


def judged(text: str) -> set[int]:
    return {each.line or 0 for each in access_list("LIST", acl.parse("LIST", text)) if "never" in each.reason}


@given(
    st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from((29, 30, 31, 32)), st.sampled_from(("", ":1", ":2"))),
        max_size=12,
    )
)
def test_what_never_acts_is_what_no_address_and_port_reaches(lines: list[tuple[int, int, str]]) -> None:
    """Compared with what lines mean: each address of a network of eight is tried with each port."""
    expected, taken = set(), set[tuple[int, str]]()
    text = []
    for number, (address, length, port) in enumerate(lines, start=1):
        first = address >> (32 - length) << (32 - length)
        text.append(f"192.0.2.{first}/{length}{port}")
        matched = {
            (each, some)
            for each in range(first, first + (1 << (32 - length)))
            for some in ((port,) if port else ("other", ":1", ":2"))
        }
        if matched <= taken:
            expected.add(number)
        taken |= matched
    assert judged("\n".join([*text, "*"])) == expected


def test_host_bits_are_told_with_what_is_meant() -> None:
    (told,) = found("192.168.1.5/24", "*")
    assert told.startswith("LIST line 1: '192.168.1.5/24': has bits set")
    assert "it means 192.168.1.0/24" in told
    assert found("![2001:db8::1]/32:443", "*")
    assert not found("192.168.1.0/24", "192.0.2.1", "[2001:db8::]/32:443", "2001:db9::/32", "*")


def test_a_list_of_denials_alone_is_told() -> None:
    (told,) = found("!a.example", "!10.0.0.0/8")
    assert told.startswith("LIST: no line allows anything, so every request is denied")


def test_long_lists_are_judged_in_time_that_grows_with_their_length() -> None:
    lines = [f"10.{n // 65536}.{n // 256 % 256}.{n % 256}:{1 + n % 60000}" for n in range(20_000)]
    lines += [f"h{n}.a.b.c.d.e.example" for n in range(20_000)]
    started = time.process_time()
    assert not found(*lines)
    assert time.process_time() - started < 10


@pytest.mark.parametrize("later", [":{}", ""])
def test_many_lines_that_meet_many_others_are_judged_in_bounded_time(later: str) -> None:
    """Every second address, without a port, and wide lines, each of which is compared with all of them."""
    lines = [f"10.0.{n // 128}.{n % 128 * 2}" for n in range(25_000)]
    wide = [f"10.{n >> 8 & 1}.0.0/{15 - n % 7}{later.format(1 + n)}" for n in range(25_000)]
    started = time.process_time()
    found(*lines, *wide)
    assert time.process_time() - started < 20
