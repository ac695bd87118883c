"""What the heads of requests and answers have in common: their fields, their framing, their end. Pure.

The grammar is that of llhttp in strict mode. http1/ adds rules for a proxy that llhttp leaves to its user: a
request line with a version, one Host, no transfer coding except `chunked`, no framing that two readers could
understand differently.
"""

from __future__ import annotations

import enum
from typing import Final

import httptools

from egress_router.http_proxy.http1.errors import Fault, MessageError

# Name in lower case, name as sent, value.
Field = tuple[bytes, bytes, bytes]

MINORS: Final = {b"1.0": 0, b"1.1": 1}
_LENGTH_DIGITS = 18  # stays below 2**60: no reader's counter overflows
# Fields that the rules of http1/ look at; all others are only forwarded.
_LOOKED_AT = frozenset(
    {
        b"authorization",
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"max-forwards",
        b"traceparent",
        b"transfer-encoding",
        b"upgrade",
        b"via",
        b"www-authenticate",
    }
)
NO_OPTIONS: Final[frozenset[bytes]] = frozenset()


class Framing(enum.Enum):
    """How the end of a body is recognised."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until_close"


# The usual ones, bound once: looking up a member of an enum by name costs 750 instructions in Python 3.11,
# for all of http1/ 4 % of a GET (docs/decisions/performance.md, `benchmarks.instructions get`).
NO_BODY: Final = Framing.NONE
BY_LENGTH: Final = Framing.LENGTH
UNTIL_CLOSE: Final = Framing.UNTIL_CLOSE


_Parser = type[httptools.HttpRequestParser] | type[httptools.HttpResponseParser]


class Fields:
    """The fields of a head, collected from the parser's callbacks: all, and the `special` ones by name."""

    __slots__ = ("complete", "fields", "special")

    def __init__(self) -> None:
        self.fields: list[Field] = []
        self.special: dict[bytes, list[bytes]] = {}
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a field."""
        lower = name.lower()
        self.fields.append((lower, name, value))
        if lower in _LOOKED_AT:
            self.special.setdefault(lower, []).append(value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        """Note that the empty line has come."""
        self.complete = True


def end_of_head(data: bytes, start: int, limit: int) -> int:
    """Return where the head in `data` ends, from `start`: 0 if it does not, -1 if beyond `limit`."""
    end = data.find(b"\r\n\r\n", start) + 4
    if end < 4:
        return 0 if len(data) <= limit else -1
    return end if end <= limit else -1


def too_large() -> MessageError:
    """Return the error for a head that is larger than the limit."""
    return MessageError(431, "the head is too large", Fault.HEAD_TOO_LARGE)


def read_fields(head: bytes, max_fields: int, parser: _Parser) -> Fields:
    """Read the fields of a head, its first line and its empty line included.

    Raises:
        MessageError: it is malformed, or has more than `max_fields` fields.
    """
    seen = Fields()
    try:
        parser(seen).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # the parser stops where another protocol would begin: after the head, its whole input
    except httptools.HttpParserInvalidMethodError:
        raise MessageError(501, "this method is not known here", Fault.UNSUPPORTED) from None
    except httptools.HttpParserError as error:
        # For 101 without an Upgrade field llhttp stops there too, which httptools reports as an error.
        if not str(error).startswith("Pause on"):
            raise MessageError(400, _sentence(error)) from None
    if not seen.complete:
        raise MessageError(400, "the head does not end where its empty line is")
    if len(seen.fields) > max_fields:
        raise MessageError(431, "the head has too many fields", Fault.TOO_MANY_FIELDS)
    return seen


def _sentence(error: httptools.HttpParserError) -> str:
    """Return llhttp's reason, a fixed text in its source; other errors might repeat what was sent."""
    if type(error) is httptools.HttpParserError:
        return f"the head is malformed: {error}"
    return "the head is malformed"


def connection_options(special: dict[bytes, list[bytes]]) -> frozenset[bytes]:
    """Return the options of the Connection fields, in lower case."""
    values = special.get(b"connection")
    if values is None:
        return NO_OPTIONS
    return frozenset([token.strip(b" \t") for token in b",".join(values).lower().split(b",")])


def declared_framing(special: dict[bytes, list[bytes]], minor: int, status: int) -> tuple[Framing, int]:
    """Return the framing that the fields declare, with length -1 if it is not known.

    Content-Length is removed from `special`, since nothing else needs it.

    Raises:
        MessageError: two readers could understand the fields differently; `status` is what a client is told.
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
