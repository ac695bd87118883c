from __future__ import annotations

import time

import pytest

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
