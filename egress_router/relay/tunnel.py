"""Two connected sockets in, bytes both ways until both sides are done, one closing record out."""

from __future__ import annotations

import contextlib
import enum
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from egress_router.metrics import Number
from egress_router.relay.flow import ENDED, WAIT, Buffers, Flow, Step
from egress_router.relay.keepalive import QUIET, keep_alive
from egress_router.relay.splice import PipePool

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.relay.deadlines import Deadlines
    from egress_router.relay.poller import Poller

# EPOLLPRI: a read ends at the urgent mark (tcp(7)), so that a short one means nothing.
_UNCLEAR = select.EPOLLERR | select.EPOLLPRI
_END = select.EPOLLRDHUP | select.EPOLLHUP
_SPECIAL = _END | _UNCLEAR
_READABLE = select.EPOLLIN | _SPECIAL
_WRITABLE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
# SO_LINGER with a time of 0: close sends a reset instead of an orderly end (socket(7)).
_RESET = struct.pack("ii", 1, 0)


class CloseReason(enum.Enum):
    """Why a tunnel ended."""

    FINISHED = "finished"
    CLIENT_RESET = "client_reset"
    UPSTREAM_RESET = "upstream_reset"
    IDLE = "idle"
    CLOSED = "closed"


# Bound once: see relay/flow.py.
FINISHED: Final = CloseReason.FINISHED


class Closing(NamedTuple):
    """The end of a tunnel: bytes that went to the upstream, bytes that went to the client, its lifetime."""

    reason: CloseReason
    sent: int
    received: int
    seconds: float


def reset(sock: socket.socket) -> None:
    """Close a socket so that its peer sees a reset; what was not sent yet is dropped."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


class Relay:
    """Makes tunnels on one poller; they share its buffers.

    `sent` and `received` count the bytes of all of them, as they go: to upstreams, to clients.
    """

    def __init__(self, poller: Poller, deadlines: Deadlines) -> None:
        self.poller = poller
        self.deadlines = deadlines
        self.buffers = Buffers(PipePool())
        self.sent = Number()
        self.received = Number()

    def start(
        self,
        client: socket.socket,
        upstream: socket.socket,
        idle_seconds: float,
        on_close: Callable[[Closing], None],
        *,
        to_upstream: bytes = b"",
        to_client: bytes = b"",
    ) -> Tunnel:
        """Take over two connected, non-blocking sockets and relay between them until both sides are done.

        Either socket may be watched by the poller already or not; its handler becomes the tunnel's.
        `to_upstream` and `to_client` go out first. `idle_seconds` without a byte end the tunnel.
        `on_close` is called exactly once, never from inside `start`, when both sockets are closed.
        """
        tunnel = Tunnel(
            self,
            Flow(client, upstream, self.buffers, self.sent, to_upstream),
            Flow(upstream, client, self.buffers, self.received, to_client),
            idle_seconds,
            on_close,
        )
        tunnel.watch()
        return tunnel

    def close(self) -> None:
        """Close the pipes that wait for their next use; tunnels go on."""
        self.buffers.pipes.close()


class Tunnel:
    """Two flows with the ends of each other; made by `Relay.start`."""

    __slots__ = ("_deadline", "_down", "_idle_seconds", "_on_close", "_relay", "_started", "_up")

    def __init__(
        self,
        relay: Relay,
        up: Flow,
        down: Flow,
        idle_seconds: float,
        on_close: Callable[[Closing], None],
    ) -> None:
        self._relay = relay
        self._up = up
        self._down = down
        self._on_close: Callable[[Closing], None] | None = on_close  # None once the tunnel is closed
        self._started = time.monotonic()
        self._idle_seconds = idle_seconds
        if idle_seconds > QUIET:
            self._deadline = relay.deadlines.add(QUIET, self._quiet)
        else:
            self._deadline = relay.deadlines.add(idle_seconds, self._idle)

    def watch(self) -> None:
        """Begin: the poller reports what can already be read, and what is to go out first is sent."""
        poller = self._relay.poller
        try:
            poller.add(self._up.source.fileno(), self._client_ready)
            poller.add(self._down.source.fileno(), self._upstream_ready)
            for flow in (self._up, self._down):
                if flow.blocked:
                    poller.again(flow.sink.fileno())
        except OSError:  # the kernel has no room to watch one more (epoll_ctl(2), ENOMEM and ENOSPC)
            poller.soon(self.close)

    @property
    def sent(self) -> int:
        """Bytes that went to the upstream until now."""
        return self._up.moved

    @property
    def received(self) -> int:
        """Bytes that went to the client until now."""
        return self._down.moved

    def close(self) -> None:
        """End the tunnel now; the peers see a reset, because their streams are cut short."""
        self._finish(CloseReason.CLOSED)

    def _client_ready(self, events: int) -> None:
        self._ready(events, self._up, self._down)

    def _upstream_ready(self, events: int) -> None:
        self._ready(events, self._down, self._up)

    def _ready(self, events: int, out: Flow, back: Flow) -> None:
        """Act on an edge of the socket that is the source of `out` and the sink of `back`."""
        if back.blocked and events & _WRITABLE:
            self._deadline.touch()
            self._act(back, back.pump(None))
        if not events & _READABLE or self._on_close is None:
            return
        if not out.ended and not out.blocked:
            self._deadline.touch()
            step = out.pump(_short(events) if events & _SPECIAL else WAIT)
            if step is not WAIT:
                self._act(out, step)
        elif events & select.EPOLLERR and out.source.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            # Nothing is read from here now, so no read would find out.
            self._act(out, Step.SOURCE_LOST)

    def _act(self, flow: Flow, step: Step) -> None:
        if step is ENDED:
            self._end(flow)
        elif step is Step.AGAIN:
            self._relay.poller.again(flow.source.fileno())
        elif step is Step.SOURCE_LOST:
            self._lost(client=flow is self._up)
        elif step is Step.SINK_LOST:
            self._sink_lost(flow)

    def _end(self, flow: Flow) -> None:
        """Pass the end of a stream on; when both have ended, closing does so."""
        if self._up.ended and self._down.ended:
            self._finish(FINISHED)
            return
        try:
            flow.sink.shutdown(socket.SHUT_WR)
        except OSError:
            self._sink_lost(flow)

    def _sink_lost(self, flow: Flow) -> None:
        # A server that refuses a request half-way answers and closes: what it sent last is still readable.
        back = self._down if flow is self._up else self._up
        if not back.ended and not back.blocked:
            back.pump(None)
        self._lost(client=flow is self._down)

    def _lost(self, *, client: bool) -> None:
        self._finish(CloseReason.CLIENT_RESET if client else CloseReason.UPSTREAM_RESET)

    def _quiet(self) -> None:
        """From the first pause on the kernel probes both peers; most connections never get here."""
        keep_alive(self._up.source)
        keep_alive(self._up.sink)
        self._deadline = self._relay.deadlines.add(self._idle_seconds - QUIET, self._idle)
        self._deadline.seconds = self._idle_seconds  # from the next byte on

    def _idle(self) -> None:
        self._finish(CloseReason.IDLE)

    def _finish(self, reason: CloseReason) -> None:
        on_close, self._on_close = self._on_close, None  # its owner and the tunnel refer to each other
        if on_close is None:
            return
        self._deadline.cancel()
        up, down = self._up, self._down
        orderly = reason is FINISHED or reason is CloseReason.IDLE
        for flow, back in ((up, down), (down, up)):
            self._relay.poller.forget(flow.source.fileno())
            if orderly and not back.blocked:
                flow.source.close()
            else:
                reset(flow.source)
        for flow in (up, down):
            if flow.blocked:
                flow.release()
        on_close(Closing(reason, up.moved, down.moved, time.monotonic() - self._started))


def _short(events: int) -> Step | None:
    """Return how a flow stands after a short read; see `Flow.pump`."""
    if events & _UNCLEAR:
        return None
    return ENDED if events & _END else WAIT
