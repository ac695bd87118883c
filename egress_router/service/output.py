"""Log output that never blocks the service: with a full pipe or a full disk, lines are lost and counted.

Lines go into a bounded queue; one thread for each stream writes them. Python's own handlers would write in
the event loop, and a blocked pipe would block every connection.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.service.recent_errors import RECENT
from egress_router.service.repeats import Repeats

if TYPE_CHECKING:
    from egress_router.metrics import Number, Registry
    from egress_router.settings.common import RuntimeSettings

_MAX_LINES = 10_000
_ATOMIC = 4096  # PIPE_BUF: writes of several processes up to this size do not mix (pipe(7))
_FLUSH_SECONDS = 1.0
_STDIN, _STDOUT, _STDERR = 0, 1, 2
_DROPPED = "Log lines lost because nobody read the stream or it could not be written."


def start(settings: RuntimeSettings, registry: Registry) -> None:
    """Send events to stderr and records to stdout, as the settings say, without ever blocking."""
    # No line shows these, and reading them costs as much as writing the line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    _open_standard_streams()
    events, records = (
        Output(descriptor, registry.counter("log_lines_dropped_total", _DROPPED, stream=name))
        for descriptor, name in ((_STDERR, "stderr"), (_STDOUT, "stdout"))
    )
    log.configure(events, settings.log_format, settings.log_level)
    log.configure_records(records, settings.log_format)


def finish() -> None:
    """Wait until what was logged is written, for a short time at most: a worker ends without `atexit`."""
    log.flush()


def _open_standard_streams() -> None:
    """Open /dev/null where a stream is closed: else a socket gets its number, and receives log lines."""
    for descriptor in (_STDIN, _STDOUT, _STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one


class Output(logging.Handler):
    """A log handler that queues lines for a descriptor; `dropped` counts the lost ones."""

    def __init__(self, descriptor: int, dropped: Number, most: int = _MAX_LINES) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._dropped = dropped
        self._most = most
        self._lines: deque[bytes] = deque()
        self._lost = 0  # lines whose loss the stream does not report yet
        self._writing = False
        self._repeats = Repeats()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record's line; drop it if the queue is full or it only repeats a warning."""
        with self._changed:
            if self._thread is None:  # an unused stream costs no thread
                self._start_thread()
            if record.levelno < logging.WARNING or self._repeats.admit(record):
                self._queue(record)
                RECENT.note(record)
            if not self._writing:
                self._changed.notify_all()

    def flush(self) -> None:
        """Wait until the queue is written, for a short time at most; `logging` calls it at exit."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines and not self._writing, _FLUSH_SECONDS)

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._write_forever, name="log", daemon=True)
        with contextlib.suppress(RuntimeError):  # the kernel refuses; the next line tries again
            thread.start()
            self._thread = thread

    def _queue(self, record: logging.LogRecord) -> None:
        if len(self._lines) >= self._most:
            self._lost += 1
            self._dropped.value += 1
        else:
            self._lines.append((self.format(record) + "\n").encode("utf-8", "backslashreplace"))

    def _write_forever(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._wait_for_lines()
                self._writing = True
                batch, count = self._batch()
            if not _written(self._descriptor, batch):
                with self._changed:
                    self._lost += count
                    self._dropped.value += count

    def _wait_for_lines(self) -> None:
        while not self._lines:
            self._changed.wait(1.0 if self._repeats.pending else None)
            for record in self._repeats.summaries(time.time()):
                self._queue(record)

    def _batch(self) -> tuple[bytes, int]:
        """Take lines that fit into one atomic write; a line that says how many were lost comes first."""
        if self._lost:
            lost, self._lost = self._lost, 0
            record = logging.makeLogRecord({"name": "egress_router.log", "levelno": logging.WARNING})
            record.levelname, record.msg = "WARNING", "log lines were lost"
            log.add_field(record, "lines", lost)
            return (self.format(record) + "\n").encode(), 0
        lines = [self._lines.popleft()]
        size = len(lines[0])
        while self._lines and size + len(self._lines[0]) <= _ATOMIC:
            size += len(self._lines[0])
            lines.append(self._lines.popleft())
        return b"".join(lines), len(lines)


def _written(descriptor: int, data: bytes) -> bool:
    """Write everything, however long it takes; return False if the stream is broken."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # somebody made the shared pipe non-blocking
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
        except OSError:  # closed pipe, full disk
            return False
    return True
