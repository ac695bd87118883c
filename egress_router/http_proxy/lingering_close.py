"""Closes after a last answer so that it arrives: a close with unread bytes resets the connection."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import sys
import termios
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.http_proxy.worker_state import WorkerState
    from egress_router.relay.buffered_socket import BufferedSocket

SILENCE = 2.0  # seconds in which the client neither sends nor reads anything


class LingeringClose:
    """Sends an answer and ends the stream; closes when the client does, is silent, or takes too long.

    Many clients read an answer only after they have sent their whole request: the rest of it is read and
    dropped (RFC 9112 9.6). `on_closed` is called once, never from inside `__init__`.
    """

    __slots__ = ("_deadline", "_ends", "_on_closed", "_open", "_stream", "_untaken", "_worker")

    def __init__(
        self,
        worker: WorkerState,
        stream: BufferedSocket,
        answer: bytes,
        seconds: float,
        on_closed: Callable[[], None],
    ) -> None:
        """Take over the socket, for `seconds` at most; `answer` may be empty if it was sent already."""
        self._worker = worker
        self._stream = stream
        self._open = True
        self._on_closed = on_closed
        self._ends = worker.clock.monotonic() + seconds
        self._deadline = worker.deadlines.add(min(SILENCE, seconds), self._silent)
        self._untaken: int | None = None  # at the last look
        stream.held = b""
        stream.on_ready = self._drain
        if answer:
            stream.send(answer)
        if not stream.out:
            self._end_stream()
        stream.watch_anew()

    def close(self) -> None:
        """Close now."""
        if self._open:
            self._open = False
            self._deadline.cancel()
            self._stream.close()
            self._on_closed()

    def _silent(self) -> None:
        """Close, unless the client, which has sent nothing, has taken something."""
        untaken, before = len(self._stream.out) + _unacknowledged(self._stream.sock), self._untaken
        takes = untaken > 0 and (before is None or untaken < before)
        if takes and self._worker.clock.monotonic() < self._ends:
            self._untaken = untaken
            self._deadline = self._worker.deadlines.add(self._deadline.seconds, self._silent)
        else:
            self.close()

    def _drain(self) -> None:
        if self._stream.out and self._stream.flush():
            self._end_stream()
        for _ in range(self._worker.reads_in_turn):
            data = self._stream.receive()
            if data is None:
                return
            if not data:
                self.close()
                return
            self._deadline.touch()
            if self._deadline.due > self._ends + self._deadline.seconds:
                self._worker.accounting.limit("linger_seconds")
                self.close()
                return
        self._stream.again()

    def _end_stream(self) -> None:
        with contextlib.suppress(OSError):  # the client has reset the connection; the next read shows it
            self._stream.sock.shutdown(socket.SHUT_WR)


def _unacknowledged(sock: socket.socket) -> int:
    """Return how many bytes the client's kernel has not taken yet (SIOCOUTQ, tcp(7))."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
