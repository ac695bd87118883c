from __future__ import annotations

import pytest

from egress_router.http_proxy.http1.errors import Fault, MessageError
from egress_router.http_proxy.http1.forwarding import (
    check_loop,
    expects_continue,
    forwards_left,
    is_wanted_switch,
    request_bytes,
    response_bytes,
    wanted_upgrade,
)
from egress_router.http_proxy.http1.request import RequestHead, parse_request
from egress_router.http_proxy.http1.response import parse_response
from egress_router.http_proxy.http1.target import absolute_target

DATE = b"Tue, 24 Nov 2026 00:00:00 GMT"


def parsed(fields: str = "", line: str = "GET http://a.example/x?y HTTP/1.1") -> RequestHead:
    return parse_request(f"{line}\r\nHost: a.example\r\n{fields}\r\n".encode("latin-1"), 100)


def forwarded(fields: str = "", line: str = "GET http://a.example/x?y HTTP/1.1") -> list[str]:
    head = parsed(fields, line)
    target = absolute_target(head.method, head.target)
    out = request_bytes(head, target, wanted_upgrade(head)).decode("latin-1")
    assert out.endswith("\r\n\r\n")
    return out[:-4].split("\r\n")


@pytest.mark.parametrize(
    ("line", "fields", "expected"),
    [
        (
            "GET http://a.example/x?y HTTP/1.1",
            "User-Agent: u\r\ncookie: a\r\nCookie: b\r\n",
            ["GET /x?y HTTP/1.1", "Host: a.example", "User-Agent: u", "cookie: a", "Cookie: b", "Via: 1.1 egress-router"],
        ),
        # Host follows the target, whatever the client wrote
        (
            "GET http://B.example:8080 HTTP/1.1",
            "",
            ["GET / HTTP/1.1", "Host: b.example:8080", "Via: 1.1 egress-router"],
        ),
        ("GET http://[2001:db8::1]/ HTTP/1.1", "", ["GET / HTTP/1.1", "Host: [2001:db8::1]", "Via: 1.1 egress-router"]),
        # hop-by-hop fields, and those that Connection names
        (
            "GET http://a.example/ HTTP/1.1",
            "Connection: X-Hop, keep-alive, Host, Via\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\n"
            "TE: trailers\r\nProxy-Authorization: Basic eA==\r\nUpgrade: websocket\r\nX: 2\r\n",
            ["GET / HTTP/1.1", "Host: a.example", "X: 2", "Via: 1.1 egress-router"],
        ),
        (
            "POST http://a.example/ HTTP/1.1",
            "Connection: Content-Length\r\nContent-Length: 3\r\n",
            ["POST / HTTP/1.1", "Host: a.example", "Content-Length: 3", "Via: 1.1 egress-router"],
        ),
        (
            "POST http://a.example/ HTTP/1.1",
            "transfer-encoding: CHUNKED\r\nExpect: 100-Continue\r\n",
            ["POST / HTTP/1.1", "Host: a.example", "Expect: 100-continue", "Transfer-Encoding: chunked", "Via: 1.1 egress-router"],
        ),
        # a message of HTTP/1.0 goes on as HTTP/1.1, and says where it came from
        (
            "GET http://a.example/ HTTP/1.0",
            "Via: 1.0 other\r\n",
            ["GET / HTTP/1.1", "Host: a.example", "Via: 1.0 other", "Via: 1.0 egress-router"],
        ),
        (
            "GET http://a.example/chat HTTP/1.1",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n",
            ["GET /chat HTTP/1.1", "Host: a.example", "Sec-WebSocket-Key: k", "Connection: Upgrade", "Upgrade: websocket", "Via: 1.1 egress-router"],
        ),
        (
            "GET http://a.example/ HTTP/1.1",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n",
            ["GET / HTTP/1.1", "Host: a.example", "Via: 1.1 egress-router"],
        ),
        (
            "OPTIONS http://a.example HTTP/1.1",
            "Max-Forwards: 7\r\n",
            ["OPTIONS * HTTP/1.1", "Host: a.example", "Max-Forwards: 6", "Via: 1.1 egress-router"],
        ),
        ("GET http://a.example/ HTTP/1.1", "Max-Forwards: 7\r\n", ["GET / HTTP/1.1", "Host: a.example", "Via: 1.1 egress-router"]),
    ],
)  # fmt: skip
def test_requests_as_the_origin_sees_them(line: str, fields: str, expected: list[str]) -> None:
    assert forwarded(fields, line) == expected


@pytest.mark.parametrize(
    "via", ["1.1 egress-router", "1.0 other, 1.1 Egress-Router (x)", "HTTP/1.1  egress-router"]
)
def test_loops_are_refused(via: str) -> None:
    with pytest.raises(MessageError) as caught:
        check_loop(parsed(f"Via: {via}\r\n"))
    assert caught.value.fault is Fault.LOOP


@pytest.mark.parametrize("via", ["1.1 egress-router-2", "1.1 my-egress-router", "1.1 x (egress-router)"])
def test_other_proxies_are_no_loop(via: str) -> None:
    check_loop(parsed(f"Via: {via}\r\n"))


def test_expectations() -> None:
    line = "POST http://a.example/ HTTP/1.1"
    assert expects_continue(parsed("Expect: 100-continue\r\nContent-Length: 1\r\n", line))
    assert not expects_continue(parsed("Expect: 100-continue\r\n", line))
    assert not expects_continue(parsed("Expect: x\r\n", "POST http://a.example/ HTTP/1.0"))
    with pytest.raises(MessageError) as caught:
        expects_continue(parsed("Expect: 200-ok\r\n", line))
    assert caught.value.status == 417


def test_max_forwards() -> None:
    assert forwards_left(parsed("Max-Forwards: 0\r\n")) is None
    assert forwards_left(parsed("Max-Forwards: 0\r\n", "TRACE http://a.example/ HTTP/1.1")) == 0
    for wrong in ("-1", "x", "", "1\r\nMax-Forwards: 1", "99999999999"):
        with pytest.raises(MessageError):
            forwards_left(parsed(f"Max-Forwards: {wrong}\r\n", "OPTIONS http://a.example/ HTTP/1.1"))


def answered(text: str, method: bytes = b"GET", *, chunked: bool = True, closing: bool = False) -> list[str]:
    head = parse_response(f"{text}\r\n".encode("latin-1"), method, 100)
    out = response_bytes(head, chunked=chunked, closing=closing, date=lambda: DATE).decode("latin-1")
    assert out.endswith("\r\n\r\n")
    return out[:-4].split("\r\n")


@pytest.mark.parametrize(
    ("text", "method", "chunked", "closing", "expected"),
    [
        (
            "HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 05\r\nKeep-Alive: 5\r\nConnection: keep-alive, x\r\nX: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n",
            b"GET", True, False,
            ["HTTP/1.1 200 OK", "Date: now", "Set-Cookie: a", "Set-Cookie: b", "Content-Length: 5", "Via: 1.1 egress-router"],
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", b"GET", True, True,
            ["HTTP/1.1 200 OK", f"Date: {DATE.decode()}", "Connection: close", "Transfer-Encoding: chunked", "Via: 1.1 egress-router"],
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nDate: x\r\n", b"GET", False, True,
            ["HTTP/1.1 200 OK", "Date: x", "Connection: close", "Via: 1.1 egress-router"],
        ),
        ("HTTP/1.0 200 OK\r\nDate: x\r\n", b"GET", True, True, ["HTTP/1.1 200 OK", "Date: x", "Connection: close", "Via: 1.0 egress-router"]),
        ("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 9\r\n", b"HEAD", True, False, ["HTTP/1.1 200 OK", "Date: x", "Content-Length: 9", "Via: 1.1 egress-router"]),
        ("HTTP/1.1 304 No\r\nDate: x\r\nContent-Length: 9\r\n", b"GET", True, False, ["HTTP/1.1 304 No", "Date: x", "Content-Length: 9", "Via: 1.1 egress-router"]),
        ("HTTP/1.1 204 No\r\nDate: x\r\nContent-Length: 9\r\n", b"GET", True, False, ["HTTP/1.1 204 No", "Date: x", "Via: 1.1 egress-router"]),
        ("HTTP/1.1 100 Continue\r\n", b"POST", True, True, ["HTTP/1.1 100 Continue", "Via: 1.1 egress-router"]),
        (
            "HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: k\r\n", b"GET", True, False,
            ["HTTP/1.1 101 Go", "Sec-WebSocket-Accept: k", "Connection: Upgrade", "Upgrade: websocket", "Via: 1.1 egress-router"],
        ),
        ("HTTP/1.1 407 No\r\nDate: x\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n", b"GET", True, False, ["HTTP/1.1 407 No", "Date: x", "Content-Length: 0", "Via: 1.1 egress-router"]),
    ],
)  # fmt: skip
def test_answers_as_the_client_sees_them(
    text: str, method: bytes, chunked: bool, closing: bool, expected: list[str]
) -> None:
    assert answered(text, method, chunked=chunked, closing=closing) == expected


@pytest.mark.parametrize(
    ("wanted", "taken", "expected"),
    [
        (b"websocket", b"websocket", True),
        (b"WebSocket", b"websocket", True),
        (b"a/1, b", b"b", True),
        (b"a/1, b", b"a/2, b", True),
        (b"websocket", b"other", False),
        (b"websocket", b"websocket, other", False),
        (b"websocket", b"", False),
        (None, b"websocket", False),
    ],
)
def test_only_what_was_wanted_may_be_switched_to(
    wanted: bytes | None, taken: bytes, *, expected: bool
) -> None:
    text = b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: %b\r\n\r\n" % taken
    assert is_wanted_switch(wanted, parse_response(text, b"GET", 200)) is expected


def test_fields_that_say_who_the_client_is_go_on_as_each_client_sent_them() -> None:
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1"):
        assert forwarded(f"Accept: a\r\nX-Forwarded-For: {address}\r\n")[2:] == [
            "Accept: a",
            f"X-Forwarded-For: {address}",
            "Via: 1.1 egress-router",
        ]
