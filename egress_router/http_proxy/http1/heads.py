"""Heads out of the bytes of a connection: whole ones, one at a time, within their limits. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from egress_router.http_proxy.http1.errors import Fault, MessageError
from egress_router.http_proxy.http1.head import no_request, parse_response

if TYPE_CHECKING:
    from egress_router.http_proxy.http1.head import ResponseHead
    from egress_router.settings.http_proxy import HttpLimits

_EMPTY_LINES = re.compile(rb"\A(?:\r\n)+")
# What may yet become a request line: the token of a method (RFC 9110 5.6.2), then a blank. None is longer.
_BEGINS_REQUEST = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}(?: |\Z)")
_MAX_OVERLOOKED = 16  # bytes of empty lines before a request; RFC 9112 2.2 asks to bear with one of them
# Nobody needs as many; without an end they would keep everybody busy but the client that waits.
_MAX_INTERIM = 32


class HeadBuffer:
    """Collects a head until its empty line, and never more bytes of it than `limits` allow."""

    __slots__ = ("_before", "_held", "_limits", "_method")

    def __init__(self, limits: HttpLimits, method: bytes = b"") -> None:
        """`method` is that of the request whose answer is collected."""
        self._limits = limits
        self._method = method
        self._held = b""
        self._before = 0  # what came before the head: bytes of empty lines, or interim answers

    @property
    def begun(self) -> bool:
        """Whether a part of a head is here."""
        return bool(self._held)

    @property
    def size(self) -> int:
        """How many bytes of an unfinished head are here."""
        return len(self._held)

    def drop(self) -> None:
        """Forget the unfinished head."""
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take bytes; return the head, empty while it is not complete, and what is behind it.

        Raises:
            MessageError: the head is too large, or too many empty lines come before it.
        """
        start = 0
        if self._held:
            start = max(0, len(self._held) - 3)
            data = self._held + data
        if data.startswith(b"\r\n"):
            data = self._without_lines(data)
        end = data.find(b"\r\n\r\n", start) + 4
        most = self._limits.head_bytes
        if end > most or (end < 4 and len(data) > most):
            self._held = data
            raise self._too_large(data[:most])
        if end < 4:
            self._held = data
            self._check_beginning(data)
            return b"", b""
        self._held = b""
        return data[:end], data[end:]

    def _without_lines(self, data: bytes) -> bytes:
        """Return what is behind empty lines, where those may be overlooked."""
        return data

    def _check_beginning(self, data: bytes) -> None:
        """Refuse what can become no head: nobody is to wait for the rest of it."""

    def _too_large(self, _head: bytes) -> MessageError:
        """Say what is too large; `_head` is as much as may be."""
        return MessageError(431, "the head is too large", Fault.HEAD_TOO_LARGE)


class RequestHeads(HeadBuffer):
    """The heads of a client's requests; a few empty lines before one do no harm (RFC 9112 2.2)."""

    __slots__ = ()

    @property
    def for_head(self) -> bool:
        """Whether the latest request has the method HEAD, even if its head is incomplete or wrong."""
        return self._held[:5] == b"HEAD " if self._held else self._method == b"HEAD"

    def next(self, data: bytes) -> tuple[bytes, bytes]:
        """Take bytes; return the next head, empty while it is not complete, and what is behind it.

        Raises:
            MessageError: the head is too large, or too many empty lines come before it.
        """
        text, rest = self.feed(data)
        if text:
            self._before = 0
            self._method = text.partition(b" ")[0]
        return text, rest

    def _without_lines(self, data: bytes) -> bytes:
        rest = _EMPTY_LINES.sub(b"", data, count=1)
        self._before += len(data) - len(rest)
        if self._before > _MAX_OVERLOOKED:
            raise MessageError(400, "there are too many empty lines before the request")
        return rest

    def _check_beginning(self, data: bytes) -> None:
        if data not in {b"", b"\r"} and _BEGINS_REQUEST.match(data) is None:
            raise no_request(data)

    def _too_large(self, head: bytes) -> MessageError:
        if b"\r\n" in head:
            return super()._too_large(head)
        # RFC 9112 3: the answer where it is the request line that is too long.
        return MessageError(414, "the request target is too long", Fault.TARGET_TOO_LONG)


class AnswerHeads(HeadBuffer):
    """The heads of the answer to one request: interim ones, and the final one (RFC 9110 15.2)."""

    __slots__ = ()

    @property
    def untouched(self) -> bool:
        """Whether nothing has come."""
        return not self._held and not self._before

    def next(self, data: bytes) -> tuple[ResponseHead | None, bytes]:
        """Take bytes; return the next head, None while it is not complete, and what is behind it.

        Raises:
            MessageError: it is malformed, ambiguous, too large, or an interim one too many.
        """
        text, rest = self.feed(data)
        if not text:
            return None, b""
        head = parse_response(text, self._method, self._limits.head_fields)
        if head.interim:
            self._before += 1
            if self._before > _MAX_INTERIM:
                raise MessageError(502, "interim answers come without end")
        return head, rest
