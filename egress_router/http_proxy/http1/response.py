"""Reads answers from the bytes of an origin: whole heads, one at a time, limited and checked. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import httptools

from egress_router.http_proxy.http1.errors import MessageError
from egress_router.http_proxy.http1.head import (
    MINORS,
    NO_BODY,
    NO_OPTIONS,
    UNTIL_CLOSE,
    connection_options,
    declared_framing,
    end_of_head,
    read_fields,
    too_large,
)

if TYPE_CHECKING:
    from egress_router.http_proxy.http1.head import Field, Framing
    from egress_router.settings.http_proxy import HttpLimits

_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
# No origin needs so many. Without a limit they would keep the proxy busy while the client waits.
_MAX_INTERIM: Final = 32


# Not frozen, for the same reason as the head of a request.
@dataclass(slots=True)
class ResponseHead:
    """An answer without its body; `persistent` says whether the origin keeps the connection open.

    `length` is -1 if none is declared. After an `interim` answer another head follows, after 101 another
    protocol.
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


class AnswerHeads:
    """Collects the heads of the answer to one request: interim ones, and the final one (RFC 9110 15.2)."""

    __slots__ = ("_held", "_interim", "_limits", "_method")

    def __init__(self, limits: HttpLimits, method: bytes) -> None:
        """`method` is that of the request."""
        self._limits = limits
        self._method = method
        self._held = b""
        self._interim = 0

    @property
    def size(self) -> int:
        """How many bytes of an incomplete head are buffered."""
        return len(self._held)

    @property
    def untouched(self) -> bool:
        """Whether nothing has come yet."""
        return not self._held and not self._interim

    def next(self, data: bytes) -> tuple[ResponseHead | None, bytes]:
        """Take bytes; return the next head (None until it is complete) and the bytes after it.

        Raises:
            MessageError: it is malformed, ambiguous or too large, or there are too many interim answers.
        """
        start = 0
        if self._held:
            start = max(0, len(self._held) - 3)
            data = self._held + data
        end = end_of_head(data, start, self._limits.head_bytes)
        if end <= 0:
            self._held = data
            if end < 0:
                raise too_large()
            return None, b""
        self._held = b""
        head = parse_response(data[:end], self._method, self._limits.head_fields)
        if head.interim:
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                raise MessageError(502, "interim answers come without end")
        return head, data[end:]


def parse_response(head: bytes, method: bytes, max_fields: int) -> ResponseHead:
    """Read the head of an answer to a request of this method, its empty line included.

    Raises:
        MessageError: it is malformed or ambiguous, or has more than `max_fields` fields.
    """
    line = _STATUS_LINE.match(head)
    if line is None:
        raise MessageError(502, "the status line is not HTTP/1.1 STATUS REASON")
    version, code, phrase = line.groups(b"")
    minor, status = MINORS[version], int(code)
    seen = read_fields(head, max_fields, httptools.HttpResponseParser)
    special = seen.special
    framing, length = _response_framing(method, status, minor, special)
    connection = connection_options(special) if special else NO_OPTIONS
    persistent = minor == 1 and b"close" not in connection and framing is not UNTIL_CLOSE
    interim = status < 200 and status != 101
    return ResponseHead(
        status, phrase, minor, seen.fields, special, connection, framing, length, persistent, interim
    )


def _response_framing(
    method: bytes, status: int, minor: int, special: dict[bytes, list[bytes]]
) -> tuple[Framing, int]:
    """Return the framing (RFC 9112 6.3). A wrong one is refused even in an answer without body."""
    framing, length = declared_framing(special, minor, 502)
    if method == b"HEAD" or status < 200 or status in {204, 304}:
        return NO_BODY, length
    return (UNTIL_CLOSE if framing is NO_BODY else framing), length
