"""Heads of requests and answers: bytes in, a checked head or a MessageError out. Pure.

The grammar is llhttp's, in its strict form. On top come the rules for a proxy that llhttp leaves to its
user: one request line with a version, one Host, no coding but `chunked`, no framing that two readers may read
in two ways.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

import httptools

from egress_router.http_proxy.http1.errors import Fault, MessageError
from egress_router.http_proxy.http1.target import parse_authority

# Name in lower case, name as it was sent, value.
Field = tuple[bytes, bytes, bytes]

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
_MINORS = {b"1.0": 0, b"1.1": 1}
_LENGTH_DIGITS = 18  # below 2**60: no reader's counter overflows
# Fields that the rules below look at; all others only pass through.
_LOOKED_AT = frozenset(
    {
        b"authorization",
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"max-forwards",
        b"transfer-encoding",
        b"upgrade",
        b"via",
        b"www-authenticate",
    }
)
_NO_TOKENS: frozenset[bytes] = frozenset()
# RFC 9110 9.3.1, 9.3.2, 9.3.5: content of these has no meaning; HTTP/1.0 servers overlook it, and read it
# as the next request.
_WITHOUT_CONTENT = frozenset({b"GET", b"HEAD", b"DELETE"})


class Framing(enum.Enum):
    """How the end of a body is known."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until_close"


# The usual ones, bound once: in CPython 3.11 an enum's member costs as much as two calls.
NO_BODY: Final = Framing.NONE
BY_LENGTH: Final = Framing.LENGTH
UNTIL_CLOSE: Final = Framing.UNTIL_CLOSE


# Heads are values, but not frozen: two are made for each request, and freezing trebles what that costs.
@dataclass(slots=True)
class RequestHead:
    """A request without its body; `connection` are the options of its Connection fields, lower case.

    `host` is the value of its Host field, b"" without one.

    `special` holds the values of the few fields that decide something more: mostly none, since Host and
    Content-Length have done so. `persistent` says whether the client wants to go on with this connection.
    """

    method: bytes
    target: bytes
    host: bytes
    minor: int
    fields: list[Field]
    special: dict[bytes, list[bytes]]
    connection: frozenset[bytes]
    framing: Framing
    length: int
    persistent: bool


@dataclass(slots=True)
class ResponseHead:
    """An answer without its body; `persistent` says whether its sender keeps the connection open.

    `length` is -1 where none is declared. Behind an `interim` one another head follows; behind 101 another
    protocol does.
    """

    status: int
    phrase: bytes
    minor: int
    fields: list[Field]
    special: dict[bytes, list[bytes]]
    connection: frozenset[bytes]
    framing: Framing
    length: int
    persistent: bool
    interim: bool


_Parser = type[httptools.HttpRequestParser] | type[httptools.HttpResponseParser]


class _Collector:
    """Receives what the parser calls back."""

    __slots__ = ("complete", "fields", "special")

    def __init__(self) -> None:
        self.fields: list[Field] = []
        self.special: dict[bytes, list[bytes]] = {}
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        self.fields.append((lower, name, value))
        if lower in _LOOKED_AT:
            self.special.setdefault(lower, []).append(value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        self.complete = True


def authenticates_connection(head: RequestHead | ResponseHead) -> bool:
    """Say whether a head takes part in an authentication that holds for its whole connection (RFC 4559 6)."""
    if not head.special:
        return False
    values = head.special.get(b"authorization") or head.special.get(b"www-authenticate")
    return values is not None and any(
        value[:9].lower().startswith((b"ntlm", b"negotiate")) for value in values
    )


def parse_request(head: bytes, most_fields: int) -> RequestHead:
    """Read the head of a request, its empty line included.

    Raises:
        MessageError: it is malformed or ambiguous, or has more than `most_fields` fields.
    """
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise no_request(head)
    method, target, version = line.groups()
    minor = _MINORS.get(version)
    if minor is None and method == b"PRI":  # RFC 9113 3.4: the preface of HTTP/2
        raise MessageError(505, "HTTP/2 is spoken here inside TLS only: use HTTP/1.1, or TLS", Fault.HTTP2)
    if minor is None:
        raise MessageError(505, "only HTTP/1.1 and HTTP/1.0 are spoken here", Fault.UNSUPPORTED)
    seen = _parsed(head, most_fields, httptools.HttpRequestParser)
    special = seen.special
    host = _host(special.pop(b"host", None), minor)
    connection, framing, length = _NO_TOKENS, NO_BODY, 0
    if special:
        connection = _connection(special)
        framing, length = _request_framing(method, minor, special)
    persistent = minor == 1 and b"close" not in connection
    return RequestHead(
        method, target, host, minor, seen.fields, special, connection, framing, length, persistent
    )


def no_request(data: bytes) -> MessageError:
    """Say what is wrong with bytes that begin no request."""
    # RFC 8446 5.1: a record of a handshake, which a ClientHello is, has the type 22.
    if data[:1] == b"\x16":
        sentence = (
            "this is TLS, but the port of the proxy speaks HTTP: write http:// in https_proxy=http://..."
        )
        return MessageError(400, sentence, Fault.TLS)
    return MessageError(400, "the request line is not METHOD TARGET HTTP/1.1")


def parse_response(head: bytes, method: bytes, most_fields: int) -> ResponseHead:
    """Read the head of an answer to a request of this method, its empty line included.

    Raises:
        MessageError: it is malformed or ambiguous, or has more than `most_fields` fields.
    """
    line = _STATUS_LINE.match(head)
    if line is None:
        raise MessageError(502, "the status line is not HTTP/1.1 STATUS REASON")
    version, code, phrase = line.groups(b"")
    minor, status = _MINORS[version], int(code)
    seen = _parsed(head, most_fields, httptools.HttpResponseParser)
    special = seen.special
    framing, length = _response_framing(method, status, minor, special)
    connection = _connection(special) if special else _NO_TOKENS
    persistent = minor == 1 and b"close" not in connection and framing is not UNTIL_CLOSE
    interim = status < 200 and status != 101
    return ResponseHead(
        status, phrase, minor, seen.fields, special, connection, framing, length, persistent, interim
    )


def _parsed(head: bytes, most_fields: int, parser: _Parser) -> _Collector:
    seen = _Collector()
    try:
        parser(seen).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # it stops where another protocol would begin: behind the head, which is all that it was given
    except httptools.HttpParserInvalidMethodError:
        raise MessageError(501, "this method is not known here", Fault.UNSUPPORTED) from None
    except httptools.HttpParserError as error:
        # With 101 but without the field Upgrade, llhttp stops there too, and httptools takes it for an error.
        if not str(error).startswith("Pause on"):
            raise MessageError(400, _sentence(error)) from None
    if not seen.complete:
        raise MessageError(400, "the head does not end where its empty line is")
    if len(seen.fields) > most_fields:
        raise MessageError(431, "the head has too many fields", Fault.TOO_MANY_FIELDS)
    return seen


def _sentence(error: httptools.HttpParserError) -> str:
    """Return llhttp's reason, a fixed text of its source; others might repeat what was sent."""
    if type(error) is httptools.HttpParserError:
        return f"the head is malformed: {error}"
    return "the head is malformed"


def _host(hosts: list[bytes] | None, minor: int) -> bytes:
    """RFC 9112 3.2: one Host in HTTP/1.1, at most one in HTTP/1.0; a host, though the target counts."""
    if hosts is None:
        if minor == 1:
            raise MessageError(400, "the Host field is missing")
        return b""
    if len(hosts) > 1:
        raise MessageError(400, "there are two Host fields")
    if hosts[0]:
        try:
            parse_authority(hosts[0])
        except MessageError as error:
            raise MessageError(400, f"the Host field is wrong: {error.sentence}") from None
    return hosts[0]


def _connection(special: dict[bytes, list[bytes]]) -> frozenset[bytes]:
    values = special.get(b"connection")
    if values is None:
        return _NO_TOKENS
    return frozenset([token.strip(b" \t") for token in b",".join(values).lower().split(b",")])


def _request_framing(method: bytes, minor: int, special: dict[bytes, list[bytes]]) -> tuple[Framing, int]:
    framing, length = _declared(special, minor, 400)
    if framing is NO_BODY or length == 0:
        return framing, max(length, 0)
    if method == b"CONNECT":
        raise MessageError(400, "CONNECT has no body")
    if method == b"TRACE":
        raise MessageError(400, "TRACE has no body")  # RFC 9110 9.3.8
    if minor == 0 and method in _WITHOUT_CONTENT:
        raise MessageError(400, "this method has no body in HTTP/1.0")
    return framing, max(length, 0)


def _response_framing(
    method: bytes, status: int, minor: int, special: dict[bytes, list[bytes]]
) -> tuple[Framing, int]:
    """RFC 9112 6.3; what is wrong in an answer without body is refused all the same."""
    framing, length = _declared(special, minor, 502)
    if method == b"HEAD" or status < 200 or status in {204, 304}:
        return NO_BODY, length
    return (UNTIL_CLOSE if framing is NO_BODY else framing), length


def _declared(special: dict[bytes, list[bytes]], minor: int, status: int) -> tuple[Framing, int]:
    """Return the framing that the fields declare, with -1 for the length where it is not known.

    Of Content-Length nothing is left to say, so it goes.
    """
    codings = special.get(b"transfer-encoding")
    lengths = special.pop(b"content-length", None)
    if codings is not None:
        if lengths is not None or len(codings) > 1 or minor == 0:
            raise MessageError(status, "the framing of the body is ambiguous")
        if codings[0].lower() != b"chunked":
            sentence = "no transfer coding but chunked is known here"
            raise MessageError(501 if status == 400 else status, sentence, Fault.UNSUPPORTED)
        return Framing.CHUNKED, -1
    if lengths is None:
        return NO_BODY, -1
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > _LENGTH_DIGITS:
        raise MessageError(status, "the Content-Length is not one number")
    return BY_LENGTH, int(lengths[0])
