"""Targets of requests, in absolute form and in authority form (RFC 9112 3.2)."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.http_proxy.http1.errors import MessageError
from egress_router.http_proxy.http1.request import parse_request, target_of
from egress_router.http_proxy.http1.target import absolute_target, connect_target
from tests.unit.http_proxy.http1.test_head import MAX


@pytest.mark.parametrize(
    ("target", "host", "port", "origin_form"),
    [
        (b"http://a.example", "a.example", 80, b"/"),
        (b"HTTP://A.Example./x?y", "a.example", 80, b"/x?y"),
        (b"http://a.example:8080?y", "a.example", 8080, b"/?y"),
        (b"http://192.0.2.1/%41//..", "192.0.2.1", 80, b"/%41//.."),
        (b"http://[2001:DB8::1]:81/", "2001:db8::1", 81, b"/"),
        (b"http://[::ffff:192.0.2.1]/", "192.0.2.1", 80, b"/"),
    ],
)
def test_absolute_targets(target: bytes, host: str, port: int, origin_form: bytes) -> None:
    read = absolute_target(b"GET", target)
    assert (str(read.host), read.port, read.origin_form) == (host, port, origin_form)


def test_targets_that_came_before_are_read_as_ever() -> None:
    table = {
        (b"GET", b"http://a.example"): ("a.example", 80, b"/"),
        (b"OPTIONS", b"http://a.example"): ("a.example", 80, b"*"),
        (b"GET", b"http://a.example/"): ("a.example", 80, b"/"),
        (b"GET", b"http://b.example/"): ("b.example", 80, b"/"),
        (b"GET", b"http://a.example:81/"): ("a.example", 81, b"/"),
        (b"GET", b"http://a.example/a"): ("a.example", 80, b"/a"),
        (b"GET", b"http://a.example/A"): ("a.example", 80, b"/A"),
    }
    for _ in range(2):
        for (method, target), expected in table.items():
            read = absolute_target(method, target)
            assert (read.host, read.port, read.origin_form) == expected
            with pytest.raises(MessageError, match="fragment"):
                absolute_target(method, target + b"#")


@pytest.mark.parametrize(
    ("rest", "kept"), [(b"path", True), (b"path?key=secret", False), (b"?", False), (b"x" * 256, False)]
)
def test_short_targets_without_a_query_are_kept(rest: bytes, kept: bool) -> None:
    first, second = (absolute_target(b"GET", b"http://a.example/" + rest) for _ in range(2))
    assert first == second
    assert (first is second) is kept


def test_options_about_the_whole_server() -> None:
    assert absolute_target(b"OPTIONS", b"http://a.example").origin_form == b"*"
    assert absolute_target(b"OPTIONS", b"http://a.example/").origin_form == b"/"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (b"/", "forward proxy"),
        (b"*", "forward proxy"),
        (b"a.example", "not a URL"),
        (b"https://a.example/", "use CONNECT"),
        (b"ftp://a.example/", "only http"),
        (b"urn:isbn:1", "only http"),
        (b"gopher://a.example/", "only http"),
        (b"http:/a.example/", "not a URL"),
        (b"http:///path", "neither a host name"),
        (b"http://user:word@a.example/", "credentials"),
        (b"http://a.example@b.example/", "credentials"),
        (b"http://a.example/#b", "fragment"),
        (b"http://a.example#b.example/", "fragment"),
        (b"http://a.example,b.example/", "neither a host name"),
        (b"http://a.example\\b.example/", "neither a host name"),
        (b"http://a..example/", "neither a host name"),
        (b"http://.a.example/", "neither a host name"),
        (b"http://%61.example/", "neither a host name"),
        (b"http://a.example:0/", "not a number"),
        (b"http://a.example:/", "not a number"),
        (b"http://a.example:65536/", "not a number"),
        (b"http://a.example:80:80/", "in brackets"),
        (b"http://2001:db8::1/", "in brackets"),
        (b"http://[2001:db8::1/", "neither a host name"),
        (b"http://[192.0.2.1]/", "neither a host name"),
        (b"http://[fe80::1%25eth0]/", "neither a host name"),
        (b"http://127.1/", "neither a host name"),
        (b"http://0x7f000001/", "neither a host name"),
        (b"http://2130706433/", "neither a host name"),
        (b"http://0177.0.0.1/", "neither a host name"),
        (b"http://" + b"a" * 300 + b"/", "longer"),
    ],
)
def test_targets_that_are_refused(target: bytes, words: str) -> None:
    with pytest.raises(MessageError, match=words):
        absolute_target(b"GET", target)


def test_connect_targets() -> None:
    read = connect_target(b"A.example:443")
    assert (read.host, read.port) == ("a.example", 443)
    assert str(connect_target(b"[2001:db8::1]:443").host) == "2001:db8::1"
    for wrong in (
        b"a.example",
        b"http://a.example:443/",
        b"a.example:443/",
        b"u@a.example:443",
        b":443",
        b"/",
    ):
        with pytest.raises(MessageError):
            connect_target(wrong)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=6))
def test_the_parser_of_heads_would_refuse_no_target_that_is_taken(text: str) -> None:
    """In the proxy it does not see targets, so none that it takes for malformed may be accepted."""
    for target in (f"http://a.example/{text}", f"http://a.example{text}", f"/{text}", text):
        line = f"GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n".encode()
        try:
            target_of(parse_request(line, MAX), 80 if target[:1] == "/" else None)
        except MessageError:
            continue
        httptools.HttpRequestParser(object()).feed_data(line)  # raises what it finds wrong
