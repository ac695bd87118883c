"""Heads whose fields came before are read in the same way; which fields are kept, and how many."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from egress_router.http_proxy.http1.errors import MessageError
from egress_router.http_proxy.http1.request import RequestHead, known_fields, parse_request
from tests.unit.http_proxy.http1.test_head import GET, MAX, request

AGAIN = "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nUser-Agent: x\r\n"


def test_a_connect_that_says_nothing_more_can_be_repeated() -> None:
    assert parse_request(request(AGAIN), MAX).repeatable == request(AGAIN)


@pytest.mark.parametrize(
    "text",
    [
        f"{AGAIN}Proxy-Authorization: Basic eDp5\r\n",
        f"{AGAIN}authorization: Bearer x\r\n",
        f"{AGAIN}Cookie: a=b\r\n",
        f"{AGAIN}X-Api-Key: secret\r\n",
        f"{AGAIN}Via: 1.1 a\r\n",
        f"{AGAIN}Accept: {'x' * 512}\r\n",
        "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n",
    ],
)
def test_other_heads_are_not_kept(text: str) -> None:
    assert parse_request(request(text), MAX).repeatable == b""


def outcome(head: bytes, most: int = MAX) -> RequestHead | str:
    try:
        return parse_request(head, most)
    except MessageError as error:
        return error.sentence


@pytest.mark.parametrize(
    "text",
    [
        f"{GET}User-Agent: x\r\nConnection: a, close\r\n",
        "GET http://a.example/ HTTP/1.0\r\nAccept: */*\r\n",
        f"{AGAIN}Proxy-Connection: keep-alive\r\n",
    ],
)
def test_heads_that_differ_in_one_byte_from_a_known_one_are_read_as_ever(text: str) -> None:
    known = request(text)
    as_ever = parse_request(known, MAX)
    for at in range(len(known)):
        for byte in (b"", b"\r", b"\n", b"\x00", b" ", b":", b",", b"A", b"0", b"1", b"\xff", b"\t"):
            changed = known[:at] + byte + known[at + 1 :]
            known_fields.clear()
            fresh = outcome(changed)
            known_fields.clear()
            assert outcome(known) == as_ever
            assert outcome(changed) == fresh


def test_known_fields_come_with_any_target() -> None:
    one, other = request(GET), request(GET.replace("/ HTTP", "/other HTTP"))
    first, second = parse_request(one, MAX), parse_request(other, MAX)
    assert (first.target, second.target) == (b"http://a.example/", b"http://a.example/other")
    assert replace(second, target=first.target) == first


def test_known_fields_are_those_of_their_method_version_and_limit() -> None:
    for line, version, most in product(("GET /", "TRACE /", "BREW /", "CONNECT a:1"), ("1.0", "1.1"), (3, 1)):
        head = request(f"{line} HTTP/{version}\r\nHost: a\r\nAccept: b\r\n")
        known_fields.clear()
        fresh = outcome(head, most)
        for other in (b"GET", b"CONNECT", b"TRACE"):
            outcome(head.replace(head.partition(b" ")[0], other, 1), 3)
        assert outcome(head, most) == fresh
        assert (outcome(head, most) == "the head has too many fields") is (most == 1 and line != "BREW /")


def test_fields_that_may_hold_a_secret_or_decide_are_not_kept() -> None:
    known_fields.clear()
    for text in (
        "Cookie: a",
        "authorization: b",
        "X-Forwarded-For: 192.0.2.1",
        "Content-Length: 0",
        "Via: 1.1 a",
    ):
        parse_request(request(f"{GET}{text}\r\n"), MAX)
    parse_request(request(f"{GET}Accept: {'x' * 512}\r\n"), MAX)
    assert not known_fields
    parse_request(request(f"{GET}Accept: x\r\n"), MAX)
    assert len(known_fields) == 1


def test_fields_that_are_kept_are_bounded() -> None:
    for number in range(1000):
        parse_request(request(f"{GET}User-Agent: {number}\r\n"), MAX)
        assert len(known_fields) <= 256
