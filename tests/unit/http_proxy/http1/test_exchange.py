"""Whole exchanges as bytes in, bytes out: no socket, no loop, no time. Whole, and byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.http_proxy.http1.ending import End, Ending
from egress_router.http_proxy.http1.errors import Fault, MessageError
from egress_router.http_proxy.http1.exchange import Exchange
from egress_router.http_proxy.http1.request import parse_request
from egress_router.http_proxy.http1.state import IllegalTransitionError
from egress_router.http_proxy.http1.target import absolute_target
from tests.unit.http_proxy.http1.talks import LIMITS, OK, PASSED_OK, SIZES, VIA, Talk, date, get, talk

HEAD = b"GET / HTTP/1.1\r\nHost: a.example\r\n" + VIA + b"\r\n"


@pytest.mark.parametrize("size", SIZES)
def test_a_request_and_its_answer(size: int) -> None:
    said = talk(get(), [OK], size)
    assert (said.to_client, said.to_origin) == (PASSED_OK, [HEAD])
    assert said.ends == [End(Ending.FINISHED, "finished")]
    assert said.persists


@pytest.mark.parametrize("size", SIZES)
def test_pipelined_requests_are_answered_in_their_order(size: int) -> None:
    first = b"HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n"
    post = get("/b", "Content-Length: 3", method="POST") + b"abc"
    said = talk(get("/a") + post + get("/c") + get("/d"), [first, OK, OK], size)
    assert [head.split(b" ")[1] for head in said.to_origin] == [b"/a", b"/b", b"/c"]
    assert said.to_origin[1].endswith(b"\r\n\r\nabc")
    assert said.to_client == first[:-2] + VIA + b"\r\n" + PASSED_OK * 2
    assert said.left == get("/d")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("request_", "answer", "persists"),
    [
        (get("/", "Connection: close"), OK, False),
        (get(version="1.0"), OK, False),
        (get(), b"HTTP/1.1 200 OK\r\nDate: x\r\n\r\nuntil the end", False),
        (get(), OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), True),
        (get(), b"HTTP/1.1 304 Not Modified\r\nDate: x\r\nContent-Length: 9\r\n\r\n", True),
        (get(method="HEAD"), b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 9\r\n\r\n", True),
    ],
)
def test_who_keeps_a_connection(request_: bytes, answer: bytes, persists: bool, size: int) -> None:
    said = talk(request_ + get("/next"), [answer], size)
    assert said.ends == [End(Ending.FINISHED, "finished")]
    assert said.persists is persists
    assert (b"Connection: close" in said.to_client) is not persists


@pytest.mark.parametrize("size", SIZES)
def test_100_continue_is_passed_on_and_the_body_follows(size: int) -> None:
    post = get("/", "Content-Length: 4", "Expect: 100-continue", method="POST") + b"body"
    said = talk(post, [b"HTTP/1.1 100 Continue\r\n\r\n" + OK], size)
    assert said.to_client == b"HTTP/1.1 100 Continue\r\n" + VIA + b"\r\n" + PASSED_OK
    assert b"Expect: 100-continue" in said.to_origin[0]
    assert said.to_origin[0].endswith(b"body")


@pytest.mark.parametrize("size", SIZES)
def test_chunks_are_written_anew_both_ways(size: int) -> None:
    chunks, clean = (
        b"005;x\r\nhello\r\n0\r\nSum: 1\r\nCookie: x\r\n\r\n",
        b"5\r\nhello\r\n0\r\nSum: 1\r\n\r\n",
    )
    post = get("/", "Transfer-Encoding: chunked", method="POST") + chunks
    answer = b"HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    said = talk(post + get(), [answer + chunks, OK], size)
    assert said.to_origin[0].endswith(b"\r\n\r\n" + clean)
    assert said.to_client == answer[:-2] + VIA + b"\r\n" + clean + PASSED_OK


@pytest.mark.parametrize("size", SIZES)
def test_an_upgrade_ends_the_exchange_with_what_is_behind_the_answer(size: int) -> None:
    fields = ("Connection: Upgrade", "Upgrade: websocket")
    answer = b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    said = talk(get("/", *fields) + b"frame", [answer + b"first"], size)
    assert said.ends == [End(Ending.SWITCHED, "switched")]
    assert b"Upgrade: websocket\r\n" in said.to_client
    assert said.to_client.endswith(b"first" if size > 1 else b"\r\n\r\n")
    assert said.left == b"frame"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("answer", "left", "persists"),
    [
        (OK, b"", True),  # with a status below 400 the rest of the body is sent on
        (OK.replace(b"200 OK", b"413 No"), b"body", False),
        (OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), b"body", False),
    ],
)
def test_answers_that_come_before_the_body(answer: bytes, left: bytes, persists: bool, size: int) -> None:
    said = talk(get("/", "Content-Length: 4", method="POST") + b"body", [answer], size, early=True)
    assert said.ends == [End(Ending.FINISHED, "finished")]
    assert said.left == left
    assert said.persists is persists
    assert (b"Connection: close\r\n" not in said.to_client) is persists
    assert said.to_client.endswith(b"ok")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("sent", "answer", "end"),
    [
        (get("/", "Content-Length: 9", method="POST") + b"half", OK, End(Ending.CUT, "request_incomplete")),
        (get(), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", End(Ending.CUT, "answer_incomplete")),
        (get(), b"HTTP/1.1 200 OK\r\nContent-Le", End(Ending.NO_ANSWER, "incomplete")),
        (get(), b"", End(Ending.NO_ANSWER, "incomplete")),
        (get(), b"HTTP/1.1 100 Continue\r\n\r\n", End(Ending.NO_ANSWER, "incomplete")),
    ],
)
def test_messages_that_stop_half_way(sent: bytes, answer: bytes, end: End, size: int) -> None:
    assert talk(sent, [answer], size).ends == [end]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"nonsense\r\n\r\n", Fault.MALFORMED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", Fault.MALFORMED),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 5000, Fault.HEAD_TOO_LARGE),
        (b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", Fault.UNSOLICITED_SWITCH),
        (b"HTTP/1.1 103 Hints\r\n\r\n" * 40, Fault.MALFORMED),
    ],
)
def test_bad_answers_of_which_nothing_has_gone_on(answer: bytes, fault: Fault, size: int) -> None:
    said = talk(get(), [answer], size)
    (end,) = said.ends
    assert end is not None
    assert (end.ending, end.error and end.error.fault) == (Ending.BAD_ANSWER, fault)
    assert not said.to_client.replace(b"HTTP/1.1 103 Hints\r\n" + VIA + b"\r\n", b"")


@pytest.mark.parametrize("size", SIZES)
def test_a_bad_body_of_an_answer_cuts_it(size: int) -> None:
    answer = b"HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"
    said = talk(get(), [answer + b"xx\r\n"], size)
    (end,) = said.ends
    assert end is not None
    # Seen before anything was sent on, it is a bad answer; an answer that has begun can only be cut.
    assert end.ending is (Ending.BAD_ANSWER if size > 1 else Ending.CUT)
    assert said.to_client.endswith(b"" if size > 1 else b"2\r\nok\r\n")


@pytest.mark.parametrize("size", SIZES)
def test_a_bad_body_of_a_request_is_refused(size: int) -> None:
    said = talk(get("/", "Transfer-Encoding: chunked", method="POST") + b"2\r\nok\r\nxx\r\n", [OK], size)
    (end,) = said.ends
    assert end is not None
    assert end.ending is Ending.REFUSED
    assert not said.to_client
    assert b"0\r\n\r\n" not in said.to_origin[0]
    assert (said.to_origin[0] == b"") is (size > 1)


def test_bytes_behind_an_answer_are_no_answer() -> None:
    said = talk(get(), [OK + b"HTTP/1.1 200 OK\r\n\r\n"], 1 << 20)
    assert said.to_client == PASSED_OK
    head = parse_request(get(), 50)
    exchange = Exchange(head, absolute_target(head.method, head.target), LIMITS, date)
    exchange.begin(b"", reused=False)
    exchange.from_origin(OK + b"more")
    assert exchange.surplus


@pytest.mark.parametrize(
    ("method", "fields", "answer", "ending"),
    [
        ("GET", (), b"", Ending.REPEATED),
        ("GET", (), b"HTTP", Ending.NO_ANSWER),
        ("GET", (), b"HTTP/1.1 100 Continue\r\n\r\n", Ending.NO_ANSWER),
        ("POST", ("Content-Length: 0",), b"", Ending.NO_ANSWER),
    ],
)
def test_what_an_idle_connection_that_ends_means(
    method: str, fields: tuple[str, ...], answer: bytes, ending: Ending
) -> None:
    said = talk(get("/", *fields, method=method), [answer], 1 << 20, reused=True)
    assert [end and end.ending for end in said.ends] == [ending]


def made(sent: bytes = b"") -> Exchange:
    head = parse_request(sent or get(), 50)
    return Exchange(head, absolute_target(head.method, head.target), LIMITS, date)


def test_a_request_is_sent_again_after_an_idle_connection_ended_and_not_otherwise() -> None:
    exchange = made()
    first = exchange.begin(b"", reused=True)
    exchange.origin_ended(lost=False)
    assert exchange.begin(b"", reused=False) == first
    assert exchange.from_origin(OK) == PASSED_OK
    half = made(get("/", "Content-Length: 4", method="POST"))
    half.begin(b"", reused=False)
    with pytest.raises(IllegalTransitionError):
        half.begin(b"", reused=False)


def test_times_that_are_over() -> None:
    exchange = made()
    exchange.begin(b"", reused=False)
    assert not exchange.late(begun=True)
    assert exchange.late(begun=False)
    assert exchange.end == End(Ending.TOO_LATE, "no_answer")
    exchange = made()
    exchange.begin(b"", reused=False)
    exchange.from_origin(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    assert not exchange.late(begun=False)
    assert exchange.late(begun=True)
    assert exchange.end == End(Ending.CUT, "late")
    exchange = made(get("/", "Content-Length: 4", method="POST"))
    exchange.begin(b"", reused=False)
    exchange.from_origin(OK)
    assert exchange.end is None  # the origin takes the rest of the request
    assert exchange.late(begun=False)
    assert exchange.end == End(Ending.FINISHED, "finished")


def test_an_answer_that_ends_the_connection_since_its_request_cannot_go_on_says_so() -> None:
    exchange = made(get("/", "Content-Length: 4", method="POST"))
    exchange.begin(b"", reused=False)
    exchange.origin_lost()
    assert b"Connection: close\r\n" in exchange.from_origin(OK)
    assert exchange.end == End(Ending.FINISHED, "finished")


def test_the_last_answer_says_so() -> None:
    exchange = made()
    exchange.begin(b"", reused=False)
    exchange.last()
    assert b"Connection: close" in exchange.from_origin(OK)
    assert not exchange.persists


@pytest.mark.parametrize("sent", [get("/", "Expect: x"), get("/", "Max-Forwards: x", method="TRACE")])
def test_what_cannot_be_forwarded_is_no_exchange(sent: bytes) -> None:
    with pytest.raises(MessageError):
        made(sent)


PIECES = st.sampled_from(
    [
        get(),
        get("/", "Content-Length: 3", method="POST") + b"abc",
        get("/", "Transfer-Encoding: chunked", method="PUT") + b"1\r\na\r\n0\r\n\r\n",
        get("/", "Transfer-Encoding: chunked", method="PUT") + b"1\r\nab",
        b"\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01",
        b"x" * 100,
    ]
)
ANSWERS = st.lists(
    st.sampled_from(
        [
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nDate: x\r\n",
            b"Content-Length: 2\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"\r\n",
            b"ok",
            b"2\r\nok\r\n0\r\n\r\n",
            b"\x00",
            b"HTTP/1.1 101 Go\r\nUpgrade: x\r\n\r\n",
        ]
    ),
    max_size=6,
).map(b"".join)


# A method of more than 64 characters is refused before its line is complete.
LONG_METHOD = ("501 this method is not supported", "400 the request line is not METHOD TARGET HTTP/1.1")


def talked(sent: bytes, answers: list[bytes], size: int, *, early: bool) -> Talk | str:
    """Return what was said, or what was wrong with it."""
    try:
        return talk(sent, answers, size, early=early)
    except MessageError as error:
        return f"{error.status} {error}"


@given(st.lists(PIECES, max_size=4).map(b"".join), st.lists(ANSWERS, max_size=4), st.booleans())
def test_whatever_comes_ends_as_documented_whole_and_byte_by_byte(
    sent: bytes,
    answers: list[bytes],
    early: bool,
) -> None:
    whole, bytewise = (talked(sent, answers, size, early=early) for size in SIZES)
    if isinstance(whole, str) or isinstance(bytewise, str):
        assert whole == bytewise or (whole, bytewise) == LONG_METHOD
        return
    finished = [end for end in whole.ends if end is not None and end.ending is Ending.FINISHED]
    if not early and len(finished) == len(whole.ends) == len(bytewise.ends):
        assert (whole.to_client, whole.to_origin) == (bytewise.to_client, bytewise.to_origin)
