"""Heads of requests and answers: what is read, what is refused, in whole and byte by byte."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.http_proxy.http1.errors import Fault, MessageError
from egress_router.http_proxy.http1.head import Framing
from egress_router.http_proxy.http1.request import RequestHead, RequestHeads, parse_request
from egress_router.http_proxy.http1.response import AnswerHeads, parse_response
from egress_router.http_proxy.http1.target import absolute_target, connect_target, parse_authority
from egress_router.settings.http_proxy import HttpLimits

MAX = 100

GET = "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n"

POST = "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\n"


def request(text: str) -> bytes:
    return f"{text}\r\n".encode("latin-1")


def refusal(head: bytes) -> MessageError:
    with pytest.raises(MessageError) as caught:
        parse_request(head, MAX)
    return caught.value


@pytest.mark.parametrize(
    ("text", "status"),
    [
        # request line
        ("GET http://a.example/\r\nHost: a\r\n", 400),
        ("GET  http://a.example/ HTTP/1.1\r\nHost: a\r\n", 400),
        ("GET http://a.example/a b HTTP/1.1\r\nHost: a\r\n", 400),
        ("GET http://a.example/\xe4 HTTP/1.1\r\nHost: a\r\n", 400),
        ("GET http://a.example/ HTTP/1.1 \r\nHost: a\r\n", 400),
        ("GET http://a.example/ http/1.1\r\nHost: a\r\n", 400),
        ("GET http://a.example/ HTTP/1.1\nHost: a\r\n", 400),
        ("GET http://a.example/ HTTP/11\r\nHost: a\r\n", 400),
        ("G\x01T http://a.example/ HTTP/1.1\r\nHost: a\r\n", 400),
        ("GET http://a.example/ HTTP/2.0\r\nHost: a\r\n", 505),
        ("GET http://a.example/ HTTP/1.2\r\nHost: a\r\n", 505),
        ("GET http://a.example/ HTTP/0.9\r\nHost: a\r\n", 505),
        ("PRI * HTTP/2.0\r\n", 505),
        ("BREW http://a.example/ HTTP/1.1\r\nHost: a\r\n", 501),
        ("get http://a.example/ HTTP/1.1\r\nHost: a\r\n", 501),
        # Host
        ("GET http://a.example/ HTTP/1.1\r\n", 400),
        ("GET http://a.example/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n", 400),
        ("GET http://a.example/ HTTP/1.0\r\nHost: a\r\nHost: b\r\n", 400),
        ("GET http://a.example/ HTTP/1.1\r\nHost: a, b\r\n", 400),
        ("GET http://a.example/ HTTP/1.1\r\nHost: u@a\r\n", 400),
        ("GET http://a.example/ HTTP/1.1\r\nHost: a/b\r\n", 400),
        ("GET http://a.example/ HTTP/1.1\r\nHost: a#b\r\n", 400),
        # fields
        (GET + "A : b\r\n", 400),
        (GET + ": b\r\n", 400),
        (GET + "A\r\n", 400),
        (GET + "A: b\r\n folded\r\n", 400),
        (GET + " A: b\r\n", 400),
        (GET + "A: b\rc\r\n", 400),
        (GET + "A: b\nC: d\r\n", 400),
        (GET + "A: b\x00c\r\n", 400),
        (GET + "A: b\x0bc\r\n", 400),
        (GET + "A\xe4: b\r\n", 400),
        (GET + "".join(f"A{number}: b\r\n" for number in range(MAX)), 431),
        # framing
        (POST + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", 400),
        (POST + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", 400),
        (POST + "Content-Length: 3\r\nContent-Length: 3\r\n", 400),
        (POST + "Content-Length: 3\r\nContent-Length: 4\r\n", 400),
        (POST + "Content-Length: 3, 3\r\n", 400),
        (POST + "Content-Length: +3\r\n", 400),
        (POST + "Content-Length: -3\r\n", 400),
        (POST + "Content-Length: 0x3\r\n", 400),
        (POST + "Content-Length: 1_0\r\n", 400),
        (POST + "Content-Length: \r\n", 400),
        (POST + "Content-Length: 3 3\r\n", 400),
        (POST + "Content-Length: 99999999999999999999999\r\n", 400),
        (POST + "Content-Length: 9999999999999999999\r\n", 400),
        (POST + "Transfer-Encoding: chunked, identity\r\n", 400),
        (POST + "Transfer-Encoding: identity\r\n", 400),
        (POST + "Transfer-Encoding: xchunked\r\n", 400),
        (POST + "Transfer-Encoding: \r\n", 400),
        (POST + "Transfer-Encoding: gzip, chunked\r\n", 501),
        (POST + "Transfer-Encoding: chunked,\r\n", 400),
        (POST + "Transfer-Encoding: \x0bchunked\r\n", 400),
        (POST + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
        (POST + "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 400),
        ("POST http://a.example/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n", 400),
        ("GET http://a.example/ HTTP/1.0\r\nContent-Length: 3\r\n", 400),
        ("CONNECT a.example:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n", 400),
        ("CONNECT a.example:443 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n", 400),
        ("TRACE http://a.example/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n", 400),
    ],
)
def test_what_is_malformed_or_ambiguous_is_refused(text: str, status: int) -> None:
    error = refusal(request(text))
    assert error.status == status
    assert error.sentence.isprintable()


@pytest.mark.parametrize(
    ("text", "framing", "length", "persistent"),
    [
        (GET, Framing.NONE, 0, True),
        (GET + "Connection: close\r\n", Framing.NONE, 0, False),
        (GET + "Connection: x, Close\r\n", Framing.NONE, 0, False),
        (GET + "Content-Length: 3\r\n", Framing.LENGTH, 3, True),
        (POST + "Content-Length: 0\r\n", Framing.LENGTH, 0, True),
        (POST + "Content-Length: 007 \r\n", Framing.LENGTH, 7, True),
        (POST + "Transfer-Encoding: Chunked\r\n", Framing.CHUNKED, 0, True),
        ("GET http://a.example/ HTTP/1.0\r\n", Framing.NONE, 0, False),
        ("GET http://a.example/ HTTP/1.0\r\nConnection: keep-alive\r\n", Framing.NONE, 0, False),
        ("POST http://a.example/ HTTP/1.0\r\nContent-Length: 3\r\n", Framing.LENGTH, 3, False),
        ("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nContent-Length: 0\r\n", Framing.LENGTH, 0, True),
    ],
)  # fmt: skip
def test_framing_of_requests(text: str, framing: Framing, length: int, persistent: bool) -> None:
    head = parse_request(request(text), MAX)
    assert (head.framing, head.length, head.persistent) == (framing, length, persistent)


@pytest.mark.parametrize(
    ("method", "text", "framing", "length", "persistent"),
    [
        (b"GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", Framing.LENGTH, 5, True),
        (b"GET", "HTTP/1.1 200\r\nContent-Length: 5\r\n", Framing.LENGTH, 5, True),
        (b"GET", "HTTP/1.1 200 OK\r\n", Framing.UNTIL_CLOSE, -1, False),
        (b"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", Framing.CHUNKED, -1, True),
        (b"GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n", Framing.LENGTH, 5, False),
        (b"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", Framing.NONE, 5, True),
        (b"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", Framing.NONE, -1, True),
        (b"GET", "HTTP/1.1 204 No\r\nContent-Length: 5\r\n", Framing.NONE, 5, True),
        (b"GET", "HTTP/1.1 304 No\r\nContent-Length: 5\r\n", Framing.NONE, 5, True),
        (b"GET", "HTTP/1.1 100 Go on\r\n", Framing.NONE, -1, True),
        (b"GET", "HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: x\r\n", Framing.NONE, -1, True),
        (b"GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n", Framing.LENGTH, 5, False),
    ],
)
def test_framing_of_answers(
    method: bytes, text: str, framing: Framing, length: int, persistent: bool
) -> None:
    head = parse_response(request(text), method, MAX)
    assert (head.framing, head.length, head.persistent) == (framing, length, persistent)


@pytest.mark.parametrize(
    "text",
    [
        "HTTP/2 200 OK\r\n",
        "HTTP/1.1 99 OK\r\n",
        "HTTP/1.1 2000 OK\r\n",
        "HTTP/1.1 200 O\x00K\r\n",
        "ICY 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n",
        "HTTP/1.1 304 No\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n",
        "HTTP/1.1 200 OK\r\nA: b\rc\r\n",
        "HTTP/1.1 200 OK\nA: b\r\n",
        "HTTP/1.1 200 OK\r\n" + "A: b\r\n" * (MAX + 1),
    ],
)
def test_answers_that_are_malformed_or_ambiguous_are_refused(text: str) -> None:
    with pytest.raises(MessageError):
        parse_response(request(text), b"GET", MAX)


def heads(head_bytes: int = 1024) -> RequestHeads:
    return RequestHeads(HttpLimits(head_bytes=head_bytes, head_fields=MAX))


@pytest.mark.parametrize("before", [b"", b"\r\n", b"\r\n\r\n\r\n"])
def test_heads_are_collected_up_to_their_limit(before: bytes) -> None:
    whole = b"GET / HTTP/1.1\r\nHost: b\r\n\r\n"
    head = parse_request(whole, MAX)
    assert heads(len(whole)).next(before + whole + b"rest") == (head, b"rest")
    piecewise = heads(len(whole))
    for byte in (before + whole)[:-1]:
        assert piecewise.next(bytes([byte])) == (None, b"")
    assert piecewise.begun
    assert piecewise.next(b"\nrest") == (head, b"rest")
    assert not piecewise.begun


def collected(pieces: list[bytes]) -> tuple[RequestHead | None, bytes] | None:
    buffer, head, rest = heads(60), None, b""
    for piece in pieces:
        if head:
            rest += piece
        else:
            try:
                head, rest = buffer.next(piece)
            except MessageError:
                return None
    return head, rest


@given(st.lists(st.sampled_from([b"GET / HTTP/1.0", b"A: b", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"x" * 30])))
def test_heads_whole_and_byte_by_byte_are_the_same(parts: list[bytes]) -> None:
    data = b"".join(parts)
    assert collected([data]) == collected([bytes([byte]) for byte in data])


def test_heads_beyond_their_limit_are_refused() -> None:
    whole = b"GET / HTTP/1.1\r\nA: b\r\n\r\n"
    for data in (whole, b"GET / HTTP/1.1\r\n" + b"x" * 10):
        with pytest.raises(MessageError) as caught:
            heads(len(whole) - 1).next(data)
        assert (caught.value.status, caught.value.fault) == (431, Fault.HEAD_TOO_LARGE)


@pytest.mark.parametrize("behind", [b"", b" HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_target_beyond_the_limit_is_named_as_that(behind: bytes) -> None:
    data = b"GET http://a.example/" + b"x" * 2000 + behind
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        with pytest.raises(MessageError) as caught:
            list(map(heads().next, pieces))
        assert (caught.value.status, caught.value.fault) == (414, Fault.TARGET_TOO_LONG)


@pytest.mark.parametrize(
    "data",
    [b"\x00", b"\x80", b"\n", b"\r\r", b" ", b"\r\n ", b"(", b"GET\t", b"G\x00", b"SSH-2.0:", b"x" * 65, b"\x05\x01\x00"],
)  # fmt: skip
def test_what_no_method_can_begin_with_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(MessageError, match="METHOD TARGET"):
        heads().next(data)


@pytest.mark.parametrize("data", [b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
def test_tls_is_named_as_that(data: bytes) -> None:
    for read in (heads().next, lambda text: parse_request(text + b"\r\n\r\n", MAX)):
        with pytest.raises(MessageError, match="https_proxy=http://") as caught:
            read(data)
        assert caught.value.fault is Fault.TLS


@pytest.mark.parametrize("data", [b"", b"\r", b"\r\n", b"G", b"GET", b"GET ", b"M-SEARCH", b"\r\n\r\nG"])
def test_what_may_begin_a_request_is_waited_for(data: bytes) -> None:
    assert heads().next(data) == (None, b"")


def test_an_empty_line_before_an_answer_is_a_fault() -> None:
    with pytest.raises(MessageError):
        AnswerHeads(HttpLimits(), b"GET").next(b"\r\nHTTP/1.1 200 OK\r\n\r\n")


VALID = [
    request(GET + "User-Agent: x\r\nConnection: close, x\r\nVia: 1.0 a\r\nCookie: a=b\r\n"),
    request(POST + "Content-Length: 12\r\nExpect: 100-continue\r\n"),
    request(POST + "Transfer-Encoding: chunked\r\nTrailer: x\r\n"),
    request("CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n"),
    request("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: a=b\r\n"),
]


def only_documented_errors(head: bytes) -> None:
    for parse in (parse_request, lambda text, most: parse_response(text, b"GET", most)):
        try:
            parse(head, MAX)
        except MessageError as error:
            if not error.sentence.isprintable():
                pytest.fail("a sentence repeats what was sent")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head_or_a_message_error(noise: bytes) -> None:
    only_documented_errors(noise + b"\r\n\r\n")
    for read in (parse_authority, connect_target, lambda text: absolute_target(b"GET", text)):
        with contextlib.suppress(MessageError):
            read(noise)


def test_mutated_heads_are_heads_or_message_errors() -> None:
    dice = random.Random(20261124)
    for _ in range(4000):
        head = bytearray(dice.choice(VALID))
        for _ in range(dice.randint(1, 4)):
            place = dice.randrange(len(head))
            head[place : place + dice.randint(0, 2)] = dice.choice(
                [b"\r", b"\n", b"\x00", b" ", b":", b"\r\n", b",", b"\xff", b"0", b"chunked", b"\t"]
            )
        only_documented_errors(bytes(head))
