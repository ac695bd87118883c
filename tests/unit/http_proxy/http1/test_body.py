from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.http_proxy.http1.body import Body, Chunked, Counted, NoBody, UntilClose, body_of
from egress_router.http_proxy.http1.errors import MessageError
from egress_router.http_proxy.http1.head import Framing

if TYPE_CHECKING:
    import random


def fed(body: Body, pieces: list[bytes]) -> tuple[bytes, bytes]:
    out = rest = b""
    for piece in pieces:
        if body.done:
            rest += piece
        else:
            passed, rest = body.feed(piece)
            out += passed
    return out, rest


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize(
    ("sent", "passed"),
    [
        (b"0\r\n\r\n", b"0\r\n\r\n"),
        (b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
        (b"00a;x=y\r\n0123456789\r\n0;last\r\n\r\n", b"a\r\n0123456789\r\n0\r\n\r\n"),
        (b"A\r\n0123456789\r\n0\r\n\r\n", b"a\r\n0123456789\r\n0\r\n\r\n"),
        (b'1;x="a;b"\r\n!\r\n0\r\n\r\n', b"1\r\n!\r\n0\r\n\r\n"),
        (b"0\r\nSum: 1\r\n\r\n", b"0\r\nSum: 1\r\n\r\n"),
        (b"0\r\nContent-Length: 9\r\nHost: x\r\nProxy-X: y\r\nSum: 1\r\n\r\n", b"0\r\nSum: 1\r\n\r\n"),
    ],
)
def test_chunks_are_written_anew(sent: bytes, passed: bytes) -> None:
    for pieces in ([sent + b"next"], [*bytewise(sent), b"next"]):
        body = Chunked(framed=True)
        assert fed(body, pieces) == (passed, b"next")
        assert body.ends_with_connection()


HARMFUL = """Authorization Cookie Set-Cookie X-Forwarded-For X-Forwarded-Proto Forwarded Range If-Match If-None-Match
    If-Range Cache-Control Content-Type Content-Encoding Content-Length Transfer-Encoding Trailer TE Host Via
    Connection Keep-Alive Upgrade Max-Forwards Expect Location Vary Age Expires Date Retry-After WWW-Authenticate
    Proxy-Authorization Accept Accept-Encoding Origin Access-Control-Allow-Origin Content-Security-Policy
    Strict-Transport-Security X-HTTP-Method-Override X-Real-IP X-Original-URL X-Rewrite-URL Content_Length
    X_Forwarded_For Sec-Fetch-Site X-Auth-Token Clear-Site-Data"""
HARMLESS = """ETag Accept-Ranges Content-Digest Repr-Digest Digest Server-Timing Proxy-Status Cache-Status Signature
    Signature-Input grpc-status grpc-message X-Checksum X-Amz-Checksum-Crc32 Sum Iffy Secret Contents"""


@pytest.mark.parametrize("name", HARMFUL.split())
def test_trailers_that_a_recipient_must_not_merge_are_dropped(name: str) -> None:
    for spelled in (name, name.lower(), name.upper()):
        out, _ = fed(Chunked(framed=True), [f"0\r\n{spelled}: x\r\nSum: 1\r\n\r\n".encode()])
        assert out == b"0\r\nSum: 1\r\n\r\n"


@pytest.mark.parametrize("name", HARMLESS.split())
def test_trailers_that_do_no_harm_pass(name: str) -> None:
    sent = f"0\r\n{name}: x\r\n\r\n".encode()
    assert fed(Chunked(framed=True), [sent]) == (sent, b"")


def test_chunks_are_taken_off_for_old_readers() -> None:
    body = Chunked(framed=False)
    assert fed(body, [b"5\r\nhello\r\n1\r\n!\r\n0\r\nSum: 1\r\n\r\n"]) == (b"hello!", b"")
    assert body.done


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n",
        b"x\r\n",
        b"0x5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"-5\r\n",
        b"1_0\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"5\nhello\n",
        b"5\r\nhello",
        b"5\r\nhelloo\r\n",
        b"5\r\nhell\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n",
        b'5;a="\r\nhello\r\n"\r\n0\r\n\r\nx',
        b"5;a\x00\r\nhello\r\n",
        b"1000000000000000\r\n",
        b"ffffffffffffffffff\r\n",
        b"\xd9\xa5\r\nhello\r\n",
        b"5;" + b"x" * 5000 + b"\r\nhello\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\n folded: x\r\n\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\nA: b\nC: d\r\n\r\n",
        b"0\r\n" + b"A: bbbbbbbbbbbbbbbb\r\n" * 1000 + b"\r\n",
    ],
)
def test_bad_chunks_are_refused(sent: bytes) -> None:
    for pieces in ([sent], bytewise(sent)):
        body = Chunked(framed=True)
        try:
            fed(body, [*pieces, b"0\r\n\r\n"])
        except MessageError:
            continue
        assert not body.done, sent


@pytest.mark.parametrize(
    "sent",
    [b"zzzz", b"4\n", b"4 ", b"4\rx", b"-", b"4;\x00", b"0" * 16, b"0\r\n folded", b"0\r\nA :", b"0\r\n:"],
)
def test_a_line_that_cannot_become_right_is_refused_before_its_end(sent: bytes) -> None:
    with pytest.raises(MessageError):
        fed(Chunked(framed=True), [sent])


def test_a_line_without_end_is_not_held_for_ever() -> None:
    body = Chunked(framed=True)
    with pytest.raises(MessageError):
        fed(body, [b"5;"] + [b"x" * 100] * 100)


def test_tiny_chunks_are_taken_in_turns() -> None:
    body, data = Chunked(framed=True), b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n"
    passed, rest = body.feed(data)
    assert 0 < len(passed) < 1000
    assert passed + rest == data
    while not body.done:
        more, rest = body.feed(rest)
        passed += more
    assert (passed, rest) == (data, b"")


def test_counted_bodies_end_where_they_say() -> None:
    body = Counted(5)
    assert fed(body, [b"he", b"llo", b"next"]) == (b"hello", b"next")
    assert fed(Counted(5), [b"hellonext"]) == (b"hello", b"next")
    short = Counted(5)
    short.feed(b"he")
    assert not short.ends_with_connection()
    assert Counted(0).done


def test_bodies_by_framing() -> None:
    assert isinstance(body_of(Framing.NONE, 9), NoBody)
    assert isinstance(body_of(Framing.LENGTH, 9), Counted)
    assert isinstance(body_of(Framing.CHUNKED, 0), Chunked)
    endless = body_of(Framing.UNTIL_CLOSE, 0)
    assert isinstance(endless, UntilClose)
    assert endless.feed(b"x") == (b"x", b"")
    assert not endless.done
    assert endless.ends_with_connection()


CHUNKS = st.lists(st.binary(min_size=1, max_size=40), max_size=5)


@given(CHUNKS, st.randoms(use_true_random=False), st.binary(max_size=10))
def test_pieces_make_no_difference(chunks: list[bytes], dice: random.Random, behind: bytes) -> None:
    sent = b"".join(b"%X\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    pieces, at = [], 0
    while at < len(sent):
        size = dice.randint(1, 9)
        pieces.append(sent[at : at + size])
        at += size
    whole, split = Chunked(framed=True), Chunked(framed=True)
    expected = fed(whole, [sent + behind])
    assert expected[1] == behind
    pieces[-1] += behind
    assert fed(split, pieces) == expected
    plain = Chunked(framed=False)
    assert fed(plain, [expected[0]]) == (b"".join(chunks), b"")


def outcome(pieces: list[bytes]) -> tuple[bytes, bytes] | None:
    body = Chunked(framed=True)
    try:
        out, rest = fed(body, pieces)
    except MessageError:
        return None
    return (out, rest) if body.done else (b"", b"")


@given(st.lists(st.sampled_from([b"0", b"5", b"a", b"\r", b"\n", b"\r\n", b";", b"hello", b":", b"x", b"\x00"]), max_size=30))  # fmt: skip
def test_any_bytes_whole_and_one_by_one_end_alike(parts: list[bytes]) -> None:
    sent = b"".join(parts)
    assert outcome([sent]) == outcome(bytewise(sent))
