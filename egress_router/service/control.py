"""The messages between the supervisor and a worker, and the socket that carries them.

A frame is a length, a number of descriptors and a pickled message; the descriptors (SCM_RIGHTS, unix(7)) come
with its first byte. Pickle is safe here: both ends are this program, of the same version and user.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router import log

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from egress_router.metrics import Snapshot
    from egress_router.service.mode import Json

_HEAD = struct.Struct("!IH")
_CHUNK = 262_144
MAX_DESCRIPTORS = 250  # in one message; the kernel's own bound is SCM_MAX_FD, 253
_log = log.get("service")


@dataclass(frozen=True, slots=True)
class Assigned:
    """To a worker: its slot, and how many workers there are; comes with the memory that all of them share."""

    slot: int
    workers: int


@dataclass(frozen=True, slots=True)
class Listeners:
    """To a worker: the sockets that come with this message listen on these ports, in this order."""

    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Serve:
    """To a worker: put these rules in force, and listen on exactly these ports."""

    rules: object
    ports: frozenset[int]


@dataclass(frozen=True, slots=True)
class Drain:
    """To a worker: accept what is in the accept queues, finish open connections, then end."""


@dataclass(frozen=True, slots=True)
class Close:
    """To a worker: close every connection and end."""


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """To a worker: answer with `StatusReport` of the same number."""

    number: int


@dataclass(frozen=True, slots=True)
class Serving:
    """From a worker: it has rules and listens."""


@dataclass(frozen=True, slots=True)
class Report:
    """From a worker, each second: its metrics."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class StatusReport:
    """From a worker: what `Server.status` returns."""

    number: int
    status: dict[str, Json]


ToWorker = Assigned | Listeners | Serve | Drain | Close | StatusRequest
FromWorker = Serving | Report | StatusReport
Message = ToWorker | FromWorker


class Channel:
    """One end of the control socket, driven by the event loop; owns the socket.

    `on_message` gets each message with its descriptors. `on_end` is called once, when the other end is gone
    or this end could not receive everything; it is not called after `close`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_message: Callable[[Message, list[int]], None],
        on_end: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._incoming = bytearray()
        self._descriptors: deque[int] = deque()
        self._outgoing: deque[tuple[memoryview, list[int]]] = deque()
        self._open = True
        sock.setblocking(False)
        loop.add_reader(sock, self._readable)

    @property
    def is_idle(self) -> bool:
        """Whether everything sent so far has left this process."""
        return not self._outgoing

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message with descriptors; the caller keeps them, and may close them at once.

        Raises:
            OSError: the message has to wait, and no descriptor is free for the copies that this needs.
        """
        if not self._open:
            return
        body = pickle.dumps(message, protocol=5)
        frame = memoryview(_HEAD.pack(len(body), len(descriptors)) + body)
        if not self._outgoing and (sent := self._write(frame, descriptors)):
            frame, descriptors = frame[sent:], ()
        if frame and self._open:
            self._outgoing.append((frame, _copies(descriptors)))
            self._loop.add_writer(self._sock, self._flush)

    def close(self) -> None:
        """Close the socket, and all descriptors that are still to be sent or delivered."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        for _, descriptors in self._outgoing:
            _close_all(descriptors)
        _close_all(self._descriptors)
        self._outgoing.clear()

    def _flush(self) -> None:
        while self._outgoing:
            frame, copies = self._outgoing[0]
            sent = self._write(frame, copies)
            if not sent:
                return
            _close_all(copies)
            if sent == len(frame):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = (frame[sent:], [])
        self._loop.remove_writer(self._sock)

    def _write(self, frame: memoryview, descriptors: Sequence[int]) -> int:
        """Send what can be sent at once, and return how much; the descriptors go with the first byte."""
        try:
            return socket.send_fds(self._sock, [frame], list(descriptors))
        except BlockingIOError:
            return 0
        except OSError:
            self._end()
            return 0

    def _readable(self) -> None:
        try:
            data, descriptors, flags, _ = socket.recv_fds(self._sock, _CHUNK, MAX_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors, flags = b"", [], 0
        self._descriptors.extend(descriptors)
        if flags & socket.MSG_CTRUNC:
            # The kernel has closed those for which this process had no descriptor left (unix(7)).
            _log.error("sockets were lost on their way here: raise the limit of open files")
            data = b""
        if not data:
            self._end()
            return
        self._incoming += data
        while self._open and self._take_one():
            pass

    def _take_one(self) -> bool:
        if len(self._incoming) < _HEAD.size:
            return False
        length, count = _HEAD.unpack_from(self._incoming)
        end = _HEAD.size + length
        if len(self._incoming) < end:
            return False
        message: Message = pickle.loads(self._incoming[_HEAD.size : end])  # noqa: S301 (see the module's docstring)
        del self._incoming[:end]
        self._on_message(message, [self._descriptors.popleft() for _ in range(count)])
        return True

    def _end(self) -> None:
        self.close()
        self._on_end()


def _copies(descriptors: Sequence[int]) -> list[int]:
    made: list[int] = []
    try:
        for each in descriptors:
            made.append(os.dup(each))  # noqa: PERF401 (what was made before a failure must be closed)
    except OSError:
        _close_all(made)
        raise
    return made


def _close_all(descriptors: Sequence[int] | deque[int]) -> None:
    for each in descriptors:
        os.close(each)
