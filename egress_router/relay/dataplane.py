"""The data plane as Python sees it: commands in, news in batches out (docs/decisions/data-plane.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from egress_router.errors import RefusedError
from egress_router.metrics import DURATION_BUCKETS, LATENCY_BUCKETS, Number
from egress_router.relay.loop import PollerLoop
from egress_router.relay.news import tell
from egress_router.relay.packed_addresses import packed

try:
    from egress_router.relay import _plane
except ImportError as error:  # a checkout whose environment is older than the sources
    remedy = "run `make venv` or `pip install -e .`"
    raise ImportError(f"{error}: the compiled part is missing; {remedy}") from None

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from egress_router.grammar.address import IPAddress, Target
    from egress_router.metrics import Registry

Pair = _plane.Pair
Forwarding = _plane.Forwarding
OWN_BYTES: Final = _plane.OWN_BYTES

# Seconds without a byte before the kernel probes the peers; busy and short connections need no probes.
QUIET: Final = 30.0
MAX_NEWS: Final = 512  # read in one turn of the loop, which has other things to do
_MAX_READS: Final = 128  # for a snapshot: as many news as may wait, MAX_UNREAD of plane.h
_UNLIMITED: Final = (1 << 31) - 1
_NO_BOUND: Final = (1 << 63) - 1
_LIMIT: Final = "relay_bytes"
_BOUNDS: Final = (LATENCY_BUCKETS, DURATION_BUCKETS)


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections may be open: in all processes that share `counts`, in this one, for one client."""

    maximum: int
    possible: int
    maximum_per_client: int | None
    counts: memoryview
    slot: int


class DataPlane:
    """The data plane of this process, and its news in the event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits | None = None,
        quiet: float = QUIET,
        max_news: int = MAX_NEWS,
        own: memoryview | None = None,
        most_held: int = _NO_BOUND,
    ) -> None:
        """Start the thread; `close` ends it. In one turn of the loop at most `max_news` news are told.

        `own` is memory that all processes share, so that each recognises connections that another one made.
        `most_held` is how many bytes all connections together may hold for slow readers.

        Raises:
            RefusedError: there is no descriptor or no thread left.
        """
        self._loop = loop
        self._max_news = max_news
        try:
            self._plane = _started(limits, quiet, own, most_held)
        except OSError as error:
            what = f"cannot start the data plane ({error.strerror})"
            raise RefusedError(what, "raise the limits of open files and threads") from None
        self._sent = self._received = self._overflows = Number()
        self._known = (0, 0, 0)
        self._pauses, self._paused = 0, False
        self._closed = False
        self._reads_on = False  # has read in this turn or will in the next: the bell does nothing
        self._on_pause: Callable[[int], None] = _nothing
        self._listeners: dict[int, socket.socket] = {}
        loop.add_reader(self._plane.fileno(), self._news)
        if isinstance(loop, PollerLoop):
            # All commands of a turn wake the thread once, instead of each by itself.
            self._plane.ring_late()
            loop.poller.before_wait(self._plane.ring)

    @property
    def pipes_lent(self) -> int:
        """How many pipes carry bulk data now."""
        return self._plane.counts()[6]

    @property
    def held(self) -> int:
        """How many bytes all connections hold now."""
        return self._plane.counts()[7]

    def count(self, registry: Registry, sent: Number, received: Number) -> None:
        """Have the bytes of all connections added to these numbers as they move: to upstreams, to clients."""
        self._sent, self._received = sent, received
        self._overflows = registry.counter(
            "limit_hits_total", "Connections that reached a limit.", limit=_LIMIT
        )
        registry.before_snapshot(self.catch_up)

    def settle(self) -> None:
        """Wait until the data plane has carried out every command that was given before."""
        self._plane.settle()

    def catch_up(self) -> None:
        """Tell all news that there are now, and count the bytes that have moved."""
        self.settle()
        for _ in range(_MAX_READS):  # even with very many news the loop has to do other work
            if not self._plane.waiting():
                break
            self._read()
        self._tell_pauses()
        self._count()

    def _count(self) -> None:
        _, sent, received, _, _, _, _, _, overflows = self._plane.counts()
        self._sent.value += sent - self._known[0]
        self._received.value += received - self._known[1]
        self._overflows.value += overflows - self._known[2]
        self._known = (sent, received, overflows)

    def open_connections(self) -> int:
        """Return how many connections and dials are open."""
        return self._plane.counts()[0]

    def tell_pauses(self, on_pause: Callable[[int], None]) -> None:
        """Have this called with an `errno` when accepting pauses, and with 0 when it goes on."""
        self._on_pause = on_pause

    def listen_on(self, listeners: Mapping[int, socket.socket], line_of: Callable[[int], Forwarding]) -> None:
        """Accept on exactly these sockets, by port; close those of before that are not among them."""
        for port, listener in list(self._listeners.items()):
            if listeners.get(port) is not listener:
                self.stop_listening(self._listeners.pop(port))
        for port in listeners.keys() - self._listeners.keys():
            self._listeners[port] = listeners[port]
            self.listen(listeners[port], line_of(port))

    def change_line(self, port: int, line: Forwarding) -> None:
        """Give the next connections of a port to another line, if the port is listened on."""
        if port in self._listeners:
            self.listen(self._listeners[port], line)

    def listen(self, listener: socket.socket, line: Forwarding) -> None:
        """Accept for a line on a non-blocking socket with TCP_NODELAY; a socket may change its line."""
        self._plane.listen(listener.fileno(), line)

    def stop_listening(self, listener: socket.socket) -> None:
        """Accept what the accept queue holds, and close the socket; returns when both are done."""
        self._plane.stop_listening(listener.detach())
        self.settle()

    def aim(
        self,
        line: Forwarding,
        targets: tuple[Target, ...],
        good: int,
        refuses: int = 0,
        sources: Sequence[IPAddress | None] = (),
        near: Collection[Target] = (),
    ) -> None:
        """Have the next connections of a line go to these targets: the first `good` in turn, then the others.

        Without targets, clients that wait are closed, and later ones, too, if `refuses` is a reason.
        `sources` are the addresses that connections leave with: one for each target and of its family, or
        none at all. The kernel chooses if there are none, or if one is None. Connections to targets in `near`
        are closed as a loop when they come back to a port that is listened on here. For a line that was
        released this does nothing: news from before may still ask for targets.

        Raises:
            ValueError: the line is known, see `know`, and has to have one target.
        """
        self._plane.aim(line, targets, packed(targets, sources, near), good, refuses)

    def end_line(self, line: Forwarding) -> None:
        """Close every connection of a line."""
        self._plane.end_line(line)

    def release_line(self, line: Forwarding) -> None:
        """Have a line freed when its last connection has ended; do not use it any more."""
        self._plane.release_line(line)

    def know(self, acceptor: Forwarding, line: Forwarding, head: bytes, seconds: float) -> None:
        """For some seconds, have CONNECTs with this head to a port answered and sent where `line` leads.

        What does not go as expected comes to `acceptor`. `line` has to be aimed at one target and not to tell
        each connection; its host is what a ClientHello has to name.

        Raises:
            ValueError: the line has no target or several, or the head is too long.
        """
        self._plane.know(acceptor, line, head, seconds)

    def forget(self) -> None:
        """Forget all heads; connections that are just being made for them are not used."""
        self._plane.forget()

    def relay(
        self,
        pair: Pair,
        sockets: tuple[int, int],
        idle_seconds: float,
        early: tuple[bytes, bytes],
        admission: Pair | None = None,
    ) -> None:
        """Take over the connected sockets of client and upstream; `pair` hears of the end.

        `early` is sent first: to the upstream, to the client. `admission` is the client's: at the end of the
        tunnel it is given back, and the client does not count as open any more.
        """
        self._plane.relay(pair, *sockets, idle_seconds, *early, admission)

    def dial(
        self,
        pair: Pair,
        targets: Sequence[Target],
        seconds: float,
        stagger: float,
        sources: Sequence[IPAddress | None] = (),
        turns: int | None = None,
    ) -> None:
        """Connect to the first of these that answers; `pair` hears of the result as its end.

        `sources` are as in `aim`. With `turns` the connection is recognised if it comes back; `turns` is how
        often the client's connection has come back.
        """
        near = () if turns is None else targets
        self._plane.dial(pair, tuple(targets), packed(targets, sources, near), seconds, stagger, turns or 0)

    def turns(self, admission: Pair, sock: socket.socket) -> int:
        """Return how often a client's connection has come back to us, if we made it: see `dial`, `turns`.

        Ask when its first request has come: only then its maker has surely noted it.
        """
        return self._plane.turns(admission, sock.fileno())

    def cut(self, pair: Pair) -> None:
        """End a connection or a dial; its end comes as news."""
        self._plane.cut(pair)

    def close(self, lines: Iterable[Forwarding] = ()) -> None:
        """Release lines, end the thread and all connections, and tell their ends; again: does nothing."""
        if self._closed:
            return
        self._closed = True
        for line in lines:
            self.release_line(line)
        self._loop.remove_reader(self._plane.fileno())
        if isinstance(self._loop, PollerLoop):
            self._loop.poller.wait_without(self._plane.ring)
        self._plane.stop()
        self.catch_up()
        self._plane.sweep()

    def _news(self) -> None:
        if not self._reads_on:
            self._read_on()

    def _read_on(self) -> None:
        began_before, self._reads_on = self._reads_on, False
        self._read()
        self._tell_pauses()  # after the read: a pause that began before it may not have rung
        waiting = self._plane.waiting()
        if waiting or began_before:  # in this turn of the loop the bell may still call
            self._reads_on = True
            self._loop.call_soon(self._read_on if waiting else self._read_no_further)

    def _read_no_further(self) -> None:
        self._reads_on = False

    def _tell_pauses(self) -> None:
        _, _, _, pauses, paused, error, _, _, _ = self._plane.counts()
        for _ in range(pauses - self._pauses):
            self._on_pause(error)
        if pauses != self._pauses or (self._paused and not paused):
            if not paused:
                self._on_pause(0)
            self._pauses, self._paused = pauses, paused

    def _read(self) -> None:
        records = self._plane.collect(self._max_news)
        for record in records:
            try:
                tell(record)
            except Exception as error:  # noqa: BLE001 - the others' news come only once
                context = {"message": "a report of the data plane was not understood", "exception": error}
                self._loop.call_exception_handler(context)


def _started(limits: Limits | None, quiet: float, own: memoryview | None, most_held: int) -> _plane.Plane:
    own = memoryview(bytearray(OWN_BYTES)) if own is None else own
    if limits is None:
        return _plane.Plane(bytearray(4), own, 0, _UNLIMITED, _UNLIMITED, 0, quiet, most_held, *_BOUNDS)
    return _plane.Plane(
        limits.counts,
        own,
        limits.slot,
        limits.maximum,
        limits.possible,
        limits.maximum_per_client or 0,
        quiet,
        most_held,
        *_BOUNDS,
    )


def _nothing(_: int) -> None:
    """Do nothing: pauses are not told to anybody."""
