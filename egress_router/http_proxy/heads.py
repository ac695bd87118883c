"""Heads out of the bytes of a connection: whole ones, one at a time, within their limits. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from egress_router.http_proxy.errors import Fault, MessageError
from egress_router.http_proxy.head import parse_request, parse_response

if TYPE_CHECKING:
    from egress_router.http_proxy.head import RequestHead, ResponseHead
    from egress_router.settings.http_proxy import HttpLimits

_EMPTY_LINES = re.compile(rb"\A(?:\r\n)+")
_MOST_OVERLOOKED = 16  # bytes of empty lines before a request; RFC 9112 2.2 asks to bear with one of them
# Nobody needs as many; without an end they would keep everybody busy but the client that waits.
_MOST_INTERIM = 32


class HeadBuffer:
    """Collects a head until its empty line, and never more than `limit` bytes of it.

    `after_lines` overlooks empty lines before a request, as RFC 9112 2.2 asks of servers.
    """

    __slots__ = ("_after_lines", "_held", "_limit", "_overlooked")

    def __init__(self, limit: int, *, after_lines: bool) -> None:
        self._held = b""
        self._overlooked = 0
        self._limit = limit
        self._after_lines = after_lines

    @property
    def begun(self) -> bool:
        """Whether a part of a head is here."""
        return bool(self._held)

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take bytes; return the head, empty while it is not complete, and what is behind it.

        Raises:
            MessageError: the head is too large, or too many empty lines come before it.
        """
        start = max(0, len(self._held) - 3)
        data = self._held + data
        if self._after_lines and data.startswith(b"\r\n"):
            data = self._without_lines(data)
        end = data.find(b"\r\n\r\n", start) + 4
        if end > self._limit or (end < 4 and len(data) > self._limit):
            self._held = data
            raise MessageError(431, "the head is too large", Fault.HEAD_TOO_LARGE)
        if end < 4:
            self._held = data
            return b"", b""
        self._held = b""
        self._overlooked = 0
        return data[:end], data[end:]

    def _without_lines(self, data: bytes) -> bytes:
        rest = _EMPTY_LINES.sub(b"", data, count=1)
        self._overlooked += len(data) - len(rest)
        if self._overlooked > _MOST_OVERLOOKED:
            raise MessageError(400, "there are too many empty lines before the request")
        return rest


class RequestHeads(HeadBuffer):
    """The heads of a client's requests."""

    __slots__ = ("_most_fields", "_start")

    def __init__(self, limits: HttpLimits) -> None:
        super().__init__(limits.head_bytes, after_lines=True)
        self._most_fields = limits.head_fields
        self._start = b""

    @property
    def for_head(self) -> bool:
        """Whether the latest request has the method HEAD, be its head ever so incomplete or wrong."""
        return (self._held[:5] or self._start) == b"HEAD "

    def next(self, data: bytes) -> tuple[RequestHead | None, bytes]:
        """Take bytes; return the next head, None while it is not complete, and what is behind it.

        Raises:
            MessageError: it is malformed, ambiguous, or too large.
        """
        text, rest = self.feed(data)
        if not text:
            return None, b""
        self._start = text[:5]
        return parse_request(text, self._most_fields), rest


class AnswerHeads(HeadBuffer):
    """The heads of the answer to one request: interim ones, and the final one (RFC 9110 15.2)."""

    __slots__ = ("_interim", "_method", "_most_fields")

    def __init__(self, limits: HttpLimits, method: bytes) -> None:
        super().__init__(limits.head_bytes, after_lines=False)
        self._most_fields = limits.head_fields
        self._method = method
        self._interim = 0

    @property
    def untouched(self) -> bool:
        """Whether nothing has come."""
        return not self._held and not self._interim

    def next(self, data: bytes) -> tuple[ResponseHead | None, bytes]:
        """Take bytes; return the next head, None while it is not complete, and what is behind it.

        Raises:
            MessageError: it is malformed, ambiguous, too large, or an interim one too many.
        """
        text, rest = self.feed(data)
        if not text:
            return None, b""
        head = parse_response(text, self._method, self._most_fields)
        if head.interim:
            self._interim += 1
            if self._interim > _MOST_INTERIM:
                raise MessageError(502, "interim answers come without end")
        return head, rest
