"""Reads requests from the bytes of a client: whole heads, one at a time, limited and checked. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Final

import httptools

from egress_router.http_proxy.http1.errors import Fault, MessageError
from egress_router.http_proxy.http1.head import (
    MINORS,
    NO_BODY,
    NO_OPTIONS,
    connection_options,
    declared_framing,
    end_of_head,
    read_fields,
    too_large,
)
from egress_router.http_proxy.http1.passed_fields import passed_from_client
from egress_router.http_proxy.http1.target import (
    absolute_target,
    connect_target,
    origin_target,
    parse_authority,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from egress_router.http_proxy.http1.head import Framing
    from egress_router.http_proxy.http1.target import RequestTarget
    from egress_router.settings.http_proxy import HttpLimits

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])\r\n")
# RFC 9110 9.3.1, 9.3.2, 9.3.5: content of these has no meaning; HTTP/1.0 servers ignore it, and would read
# it as the next request.
_WITHOUT_CONTENT = frozenset({b"GET", b"HEAD", b"DELETE"})
_EMPTY_LINES = re.compile(rb"\A(?:\r\n)+")
# The beginning of a request line: a method's token (RFC 9110 5.6.2), then a space. No method is longer.
_BEGINS_REQUEST = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}(?: |\Z)")
_MAX_OVERLOOKED: Final = 16  # bytes of empty lines before a request; RFC 9112 2.2 asks to ignore at least one
_MAX_REPEATABLE: Final = 512  # MAX_KNOWN_HEAD of relay/plane/plane.h
_MAX_KNOWN: Final = 256
# Heads with any other field are not cached: it might hold a secret, or change a decision.
_HARMLESS = frozenset(
    {
        b"accept",
        b"accept-encoding",
        b"connection",
        b"host",
        b"keep-alive",
        b"proxy-connection",
        b"user-agent",
    }
)
_LOWER_NAME = itemgetter(0)  # of a field


# Heads are values, but not frozen: two are made for each request, and frozen ones would cost 8 % more of a
# GET in Python 3.11 (docs/decisions/performance.md, `benchmarks.instructions get`).
@dataclass(slots=True)
class RequestHead:
    """A request without its body; `connection`: the options of its Connection fields, in lower case.

    `host` is the value of its Host field, b"" without one; `passed`: the fields that are forwarded unchanged.

    `special` holds the values of the few fields that are still needed: usually none, since Host and
    Content-Length were used already. `persistent` says whether the client wants to keep this connection.
    `repeatable` is the whole head, if it is a CONNECT that depends on nothing but these bytes.
    """

    method: bytes
    target: bytes
    host: bytes
    minor: int
    passed: bytes
    special: Mapping[bytes, Sequence[bytes]]
    connection: frozenset[bytes]
    framing: Framing
    length: int
    persistent: bool
    repeatable: bytes = b""


# A cache of heads without target. Key: method, minor version, all bytes after the request line, and the limit
# of fields. Clients send the same fields with one target after another: to parse them each time costs 11 % of
# a GET (Python 3.11, docs/decisions/performance.md).
known_fields: dict[tuple[bytes, int, bytes, int], RequestHead] = {}


class RequestHeads:
    """Collects bytes of a client until a head is complete, never more than `limits` allow.

    A few empty lines before a request are ignored (RFC 9112 2.2).
    """

    __slots__ = ("_before", "_held", "_is_head", "_limits")

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._held = b""
        self._before = 0  # bytes of empty lines
        self._is_head = False

    @property
    def begun(self) -> bool:
        """Whether a part of a head has come."""
        return bool(self._held)

    @property
    def size(self) -> int:
        """How many bytes of an incomplete head are buffered."""
        return len(self._held)

    @property
    def for_head(self) -> bool:
        """Whether the latest request has the method HEAD, even if its head is incomplete or wrong."""
        return self._held[:5] == b"HEAD " if self._held else self._is_head

    def drop(self) -> None:
        """Forget the incomplete head."""
        self._held = b""

    def next(self, data: bytes) -> tuple[RequestHead | None, bytes]:
        """Take bytes; return the next head (None until it is complete) and the bytes after it.

        Raises:
            MessageError: it is malformed, ambiguous or too large, or too many empty lines come before it.
        """
        start = 0
        if self._held:
            start = max(0, len(self._held) - 3)
            data = self._held + data
        if data.startswith(b"\r\n"):
            data = self._without_lines(data)
        end = end_of_head(data, start, self._limits.head_bytes)
        if end <= 0:
            self._held = data
            self._check_beginning(data, fits=end == 0)
            return None, b""
        self._held = b""
        self._before = 0
        text = data[:end]
        self._is_head = text.startswith(b"HEAD ")
        return parse_request(text, self._limits.head_fields), data[end:]

    def _without_lines(self, data: bytes) -> bytes:
        rest = _EMPTY_LINES.sub(b"", data, count=1)
        self._before += len(data) - len(rest)
        if self._before > _MAX_OVERLOOKED:
            raise MessageError(400, "there are too many empty lines before the request")
        return rest

    def _check_beginning(self, data: bytes, *, fits: bool) -> None:
        """Refuse at once what cannot become a head, without waiting for the rest."""
        if not fits:
            # RFC 9112 3: 414 if it is the request line that is too long.
            if b"\r\n" in data[: self._limits.head_bytes]:
                raise too_large()
            raise MessageError(414, "the request target is too long", Fault.TARGET_TOO_LONG)
        if data not in {b"", b"\r"} and _BEGINS_REQUEST.match(data) is None:
            raise no_request(data)


def parse_request(head: bytes, max_fields: int) -> RequestHead:
    """Read the head of a request, its empty line included.

    Raises:
        MessageError: it is malformed or ambiguous, or has more than `max_fields` fields.
    """
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise no_request(head)
    method, target, version = line.groups()
    minor = MINORS.get(version)
    if minor is None and method == b"PRI":  # RFC 9113 3.4: the preface of HTTP/2
        raise MessageError(505, "HTTP/2 is spoken here inside TLS only: use HTTP/1.1, or TLS", Fault.HTTP2)
    if minor is None:
        raise MessageError(505, "only HTTP/1.1 and HTTP/1.0 are spoken here", Fault.UNSUPPORTED)
    key = (method, minor, head[line.end() :], max_fields)
    known = known_fields.get(key)
    if known is None:
        known, harmless = _read(*key)
        if not harmless or len(head) > _MAX_REPEATABLE:
            known.target = target
            return known
        if len(known_fields) >= _MAX_KNOWN:
            known_fields.clear()  # simple; with so many entries no order of eviction is better
        known_fields[key] = known
    return RequestHead(
        method,
        target,
        known.host,
        minor,
        known.passed,
        known.special,
        known.connection,
        known.framing,
        known.length,
        known.persistent,
        head if method == b"CONNECT" else b"",
    )


def _read(method: bytes, minor: int, fields: bytes, max_fields: int) -> tuple[RequestHead, bool]:
    """Return a head without its target, and whether all of its fields are harmless."""
    # The parser gets a fixed target: only target.py reads the client's, so that no cached head depends on it.
    line = b"CONNECT a:1" if method == b"CONNECT" else method + b" /"
    version = b" HTTP/1.1\r\n" if minor else b" HTTP/1.0\r\n"
    seen = read_fields(line + version + fields, max_fields, httptools.HttpRequestParser)
    special = seen.special
    host = _host(special.pop(b"host", None), minor)
    connection, framing, length = NO_OPTIONS, NO_BODY, 0
    if special:
        connection = connection_options(special)
        framing, length = _request_framing(method, minor, special)
    passed = b"" if method == b"CONNECT" else passed_from_client(seen.fields, connection)
    persistent = minor == 1 and b"close" not in connection
    harmless = _HARMLESS.issuperset(map(_LOWER_NAME, seen.fields))
    return RequestHead(
        method, b"", host, minor, passed, special, connection, framing, length, persistent
    ), harmless


def no_request(data: bytes) -> MessageError:
    """Return the error for bytes that do not begin a request."""
    # RFC 8446 5.1: a handshake record, such as one with a ClientHello, has type 22.
    if data[:1] == b"\x16":
        sentence = (
            "this is TLS, but the port of the proxy speaks HTTP: write http:// in https_proxy=http://..."
        )
        return MessageError(400, sentence, Fault.TLS)
    return MessageError(400, "the request line is not METHOD TARGET HTTP/1.1")


def _host(hosts: list[bytes] | None, minor: int) -> bytes:
    """Return the Host. RFC 9112 3.2: exactly one in HTTP/1.1, at most one in HTTP/1.0; it must be valid."""
    if hosts is None:
        if minor == 1:
            raise MessageError(400, "the Host field is missing", Fault.NO_HOST)
        return b""
    if len(hosts) > 1:
        raise MessageError(400, "there are two Host fields")
    if hosts[0]:
        try:
            parse_authority(hosts[0])
        except MessageError as error:
            raise MessageError(400, f"the Host field is wrong: {error.sentence}") from None
    return hosts[0]


def _request_framing(method: bytes, minor: int, special: dict[bytes, list[bytes]]) -> tuple[Framing, int]:
    framing, length = declared_framing(special, minor, 400)
    if framing is NO_BODY or length == 0:
        return framing, max(length, 0)
    if method == b"CONNECT":
        raise MessageError(400, "CONNECT has no body")
    if method == b"TRACE":
        raise MessageError(400, "TRACE has no body")  # RFC 9110 9.3.8
    if minor == 0 and method in _WITHOUT_CONTENT:
        raise MessageError(400, "this method has no body in HTTP/1.0")
    return framing, max(length, 0)


def target_of(head: RequestHead, origin_port: int | None) -> RequestTarget:
    """Return where a request goes; `origin_port` is the origin's port if the client takes the proxy for it.

    Raises:
        MessageError: the target has another form.
    """
    if origin_port is not None:
        return origin_target(head.method, head.target, head.host, origin_port)
    if head.method == b"CONNECT":
        return connect_target(head.target)
    return absolute_target(head.method, head.target)
