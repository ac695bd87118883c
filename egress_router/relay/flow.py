"""One direction of a tunnel: bytes from a source socket to a sink socket, never more than one chunk held."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket

    from egress_router.metrics import Number
    from egress_router.relay.splice import Pipe, PipePool

# What a tunnel holds at most for each side that does not read; bulk goes through pipes anyway.
CHUNK: Final = 1 << 16
# A direction that moved so much without a pause is bulk: splicing pays from here on.
_BULK: Final = 1 << 19
# A wake-up that moves less than this is a pause: small messages are cheaper copied.
_PAUSE: Final = 1 << 12
# What one wake-up may move before it is everybody else's turn.
_TURN: Final = 1 << 21


class Step(enum.Enum):
    """How a flow stands after it moved what it could."""

    WAIT = "the kernel will report when there is more to do"
    AGAIN = "its turn is used up; call again"
    ENDED = "the source sent its end, and everything before it is on its way"
    SOURCE_LOST = "the source was reset or timed out"
    SINK_LOST = "the sink was reset or timed out"


# The usual ones, bound once: in CPython 3.11 an enum's member costs as much as two calls.
WAIT: Final = Step.WAIT
ENDED: Final = Step.ENDED


class Buffers:
    """What the flows of one relay share: a chunk to read into, and pipes."""

    __slots__ = ("chunk", "pipes")

    def __init__(self, pipes: PipePool) -> None:
        self.chunk = memoryview(bytearray(CHUNK))
        self.pipes = pipes


class Flow:
    """Moves bytes one way. While the sink does not take what was read, nothing more is read.

    `moved` counts what the sink took, `blocked` says that bytes wait for it, `ended` that the source sent its
    end and everything before it is on its way.
    """

    __slots__ = (
        "_buffers",
        "_held",
        "_meter",
        "_pipe",
        "_run",
        "blocked",
        "ended",
        "moved",
        "sink",
        "source",
    )

    def __init__(
        self, source: socket.socket, sink: socket.socket, buffers: Buffers, meter: Number, held: bytes
    ) -> None:
        self.source = source
        self.sink = sink
        self.moved = 0
        self.ended = False
        self.blocked = bool(held)
        self._buffers = buffers
        self._meter = meter
        self._held: bytes | memoryview = held
        self._pipe: Pipe | None = None
        self._run = 0

    def pump(self, short: Step | None) -> Step:
        """Move what can be moved now.

        `short` is how the flow stands after a read of less than a chunk, which saves the next read: `WAIT`,
        as what comes later makes a new edge (epoll(7)); `ENDED` where the end was there before the read, so
        that it is behind these bytes. None where neither is known.
        """
        before = self.moved
        step = self._flush() if self.blocked else None
        if step is None:
            step = self._splice() if self._run >= _BULK else self._copy(short)
        self.blocked = blocked = bool(self._held) or self._pipe is not None
        moved = self.moved - before
        # Nothing moved is no pause: the edge was for bytes that the turn before had taken along.
        if moved:
            self._meter.value += moved
            self._run = self._run + moved if moved >= _PAUSE or blocked else 0
        return step

    def release(self) -> None:
        """Drop what the flow holds and give back what it has on loan."""
        self._held = b""
        self._return_pipe()

    def _flush(self) -> Step | None:
        """Hand on what is held; None when nothing is any more."""
        try:
            if self._pipe is not None:
                self._drain(self._pipe)
            elif self._held:
                sent = self.sink.send(self._held)
                self.moved += sent
                self._held = memoryview(self._held)[sent:]
        except BlockingIOError:
            return WAIT
        except OSError:
            return Step.SINK_LOST
        return WAIT if self._held else None

    def _copy(self, short: Step | None) -> Step:
        chunk = self._buffers.chunk
        left = _TURN
        while left > 0:
            try:
                count = self.source.recv_into(chunk)
            except OSError as error:
                return WAIT if isinstance(error, BlockingIOError) else Step.SOURCE_LOST
            if not count:
                self.ended = True
                return ENDED
            try:
                sent = self.sink.send(chunk[:count])
            except BlockingIOError:
                sent = 0
            except OSError:
                return Step.SINK_LOST
            self.moved += sent
            if sent < count:
                self._held = bytes(chunk[sent:count])
                return WAIT
            if count < CHUNK and short is not None:
                self.ended = short is ENDED
                return short
            left -= count
        return Step.AGAIN

    def _splice(self) -> Step:
        if self._pipe is None:
            self._pipe = self._buffers.pipes.take()
        if self._pipe is None:
            return self._copy(None)
        step = self._through(self._pipe)
        if not self._pipe.holds:
            self._return_pipe()
        return step

    def _through(self, pipe: Pipe) -> Step:
        source = self.source.fileno()
        before = self.moved
        while self.moved - before < _TURN:
            try:
                count = pipe.fill(source)
            except BlockingIOError:
                return WAIT
            except OSError:
                return Step.SOURCE_LOST
            if not count:
                self.ended = True
                return ENDED
            try:
                self._drain(pipe)
            except BlockingIOError:
                return WAIT
            except OSError:
                return Step.SINK_LOST
        return Step.AGAIN

    def _drain(self, pipe: Pipe) -> None:
        """Empty the pipe into the sink; OSError as `send` raises it, BlockingIOError with bytes left."""
        sink = self.sink.fileno()
        while pipe.holds:
            self.moved += pipe.drain(sink)

    def _return_pipe(self) -> None:
        if self._pipe is not None:
            self._buffers.pipes.give_back(self._pipe)
            self._pipe = None
