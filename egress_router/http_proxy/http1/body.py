"""Message bodies: checked while they pass, chunks written again, at most one line buffered. Pure."""

from __future__ import annotations

import enum
import re
from typing import Protocol

from egress_router.http_proxy.http1.errors import MessageError
from egress_router.http_proxy.http1.head import BY_LENGTH, NO_BODY, Framing
from egress_router.http_proxy.http1.trailers import may_follow

# 15 hex digits stay below 2**60: no reader's counter overflows. int() would also take signs and underscores.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e]*)?")
_TRAILER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t\x20-\x7e\x80-\xff]*")
# The beginning of such a line. Anything else is refused at once, without waiting for the rest of the line.
_SIZE_BEGUN = re.compile(rb"(?:[0-9A-Fa-f]{1,15}(?:;[\t\x20-\x7e]*)?)?\r?")
_TRAILER_BEGUN = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+(?::[\t\x20-\x7e\x80-\xff]*)?)?\r?")
_MAX_STEPS = 128  # sizes, data and ends of chunks in one call, about 0.2 ms; 64 KiB may hold 32,000 of them
_LINE_LIMIT = 4096
_TRAILER_LIMIT = 16_384  # bytes of all trailer fields


class Body(Protocol):
    """Reads one body. `done` says that it is complete."""

    done: bool

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take bytes from the peer; return the bytes to forward, and the bytes that were not taken.

        Once the body is done, the bytes not taken come after its end. Before that, feed them again: the
        chunks are so small that other connections should run in between.

        Raises:
            MessageError: the framing is wrong.
        """

    def ends_with_connection(self) -> bool:
        """Say whether the body is complete if its sender closes now."""


class NoBody:
    """A message that ends with its head."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = True

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Forward nothing."""
        return b"", data

    def ends_with_connection(self) -> bool:
        """Say yes: it ended with the head."""
        return True


_ENDED = NoBody()  # one object for all messages: nothing in it changes


class Counted:
    """A body of a declared length."""

    __slots__ = ("done", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Forward as many bytes as were declared."""
        left = self.left - len(data)
        if left > 0:
            self.left = left
            return data, b""
        end = self.left
        self.left = 0
        self.done = True
        return (data, b"") if left == 0 else (data[:end], data[end:])

    def ends_with_connection(self) -> bool:
        """Say whether all declared bytes have come."""
        return self.done


class UntilClose:
    """A body that ends with its connection."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Forward everything."""
        return data, b""

    def ends_with_connection(self) -> bool:
        """Say yes: this is how such a body ends."""
        self.done = True
        return True


class _Expected(enum.Enum):
    SIZE = "size"
    DATA = "data"
    END_OF_DATA = "end of data"
    TRAILER = "trailer"


class Chunked:
    """A chunked body, read strictly; written again without extensions, leading zeros and harmful trailers.

    `framed=False` removes the chunked coding, for a reader of HTTP/1.0. At most one line is buffered.
    """

    __slots__ = ("_expected", "_framed", "_held", "_left", "_out", "_trailer_bytes", "done")

    def __init__(self, *, framed: bool) -> None:
        self._framed = framed
        self._expected = _Expected.SIZE
        self._held = b""
        self._left = 0
        self._trailer_bytes = 0
        self._out: list[bytes] = []
        self.done = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Forward the chunks in `data`; see `Body`.

        Raises:
            MessageError: `data` is not in the chunked coding.
        """
        if self._held:
            data = self._held + data
            self._held = b""
        at, end = 0, len(data)
        for _ in range(_MAX_STEPS):
            if at == end or self.done:
                break
            if self._expected is _Expected.DATA:
                after = self._data(data, at)
            elif self._expected is _Expected.END_OF_DATA:
                after = self._end_of_data(data, at)
            else:
                after = self._line(data, at)
            if after < 0:
                self._held = data[at:]
                at = end
                break
            at = after
        out = b"".join(self._out)
        self._out.clear()
        return out, data[at:]

    def ends_with_connection(self) -> bool:
        """Say whether the last chunk and the trailer section have come."""
        return self.done

    def _data(self, data: bytes, at: int) -> int:
        piece = data[at : at + self._left]
        self._out.append(piece)
        self._left -= len(piece)
        if self._left == 0:
            self._expected = _Expected.END_OF_DATA
        return at + len(piece)

    def _end_of_data(self, data: bytes, at: int) -> int:
        """Return the position after the CRLF of a chunk, or -1 until it has come."""
        after = data[at : at + 2]
        if after == b"\r\n":
            self._expected = _Expected.SIZE
            if self._framed:
                self._out.append(after)
            return at + 2
        if after == b"\r":
            return -1
        raise MessageError(400, "a chunk does not end where its size says")

    def _line(self, data: bytes, at: int) -> int:
        """Read one line from `at`; return the position after it, or -1 until it is complete."""
        end = data.find(b"\r\n", at)
        if end < 0:
            if len(data) - at > _LINE_LIMIT:
                raise MessageError(400, "a line of the chunked body is too long")
            beginning = _SIZE_BEGUN if self._expected is _Expected.SIZE else _TRAILER_BEGUN
            if beginning.fullmatch(data, at) is None:
                raise MessageError(400, "a line of the chunked body is malformed")
            return -1
        if end - at > _LINE_LIMIT:
            raise MessageError(400, "a line of the chunked body is too long")
        line = data[at:end]
        if self._expected is _Expected.SIZE:
            self._size(line)
        else:
            self._trailer(line)
        return end + 2

    def _size(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise MessageError(400, "the size of a chunk is malformed")
        size = int(match[1], 16)
        self._left = size
        self._expected = _Expected.DATA if size else _Expected.TRAILER
        if self._framed:
            self._out.append(b"%x\r\n" % size)

    def _trailer(self, line: bytes) -> None:
        if not line:
            self.done = True
            if self._framed:
                self._out.append(b"\r\n")
            return
        match = _TRAILER.fullmatch(line)
        self._trailer_bytes += len(line)
        if match is None or self._trailer_bytes > _TRAILER_LIMIT:
            raise MessageError(400, "the trailer section is malformed or too large")
        if self._framed and may_follow(match[1].lower()):
            self._out.append(line + b"\r\n")


def body_of(framing: Framing, length: int, *, framed: bool = True) -> Body:
    """Return the body that a head announces; `framed=False` removes the chunked coding."""
    if framing is NO_BODY:
        return _ENDED
    if framing is BY_LENGTH:
        return Counted(length)
    return Chunked(framed=framed) if framing is Framing.CHUNKED else UntilClose()
