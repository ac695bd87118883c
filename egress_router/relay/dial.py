"""Connects to the first of several addresses that answers.

The attempts are staggered in the shape of RFC 8305 5: the next address is tried at once after a failure and
after a short silence otherwise, while earlier attempts go on.
"""

from __future__ import annotations

import enum
import errno
import select
import socket
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final, NamedTuple

from egress_router.errors import EgressRouterError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.relay.deadlines import Deadline, Deadlines
    from egress_router.relay.poller import Poller

# Each attempt holds a descriptor. The oldest makes room, after time enough for a lost first packet (RFC 6298:
# sent again after a second).
MOST_AT_ONCE: Final = 6
_UNDER_WAY = frozenset({0, errno.EINPROGRESS})
_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
_FAILED = select.EPOLLERR | select.EPOLLHUP
STAGGER: Final = 0.25  # seconds; RFC 8305 5, "Connection Attempt Delay"


class DialReason(enum.Enum):
    """Why an attempt, or all of them together, failed."""

    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    NO_DESCRIPTOR = "no_descriptor"


# When attempts failed for different reasons, the first of these is the whole dial's: our own fault first,
# then the answer that says most about a server that is there.
_WEIGHT = (DialReason.NO_DESCRIPTOR, DialReason.TIMEOUT, DialReason.REFUSED, DialReason.UNREACHABLE)

_REASONS = {
    errno.ECONNREFUSED: DialReason.REFUSED,
    errno.ECONNRESET: DialReason.REFUSED,
    errno.ETIMEDOUT: DialReason.TIMEOUT,
    errno.EMFILE: DialReason.NO_DESCRIPTOR,
    errno.ENFILE: DialReason.NO_DESCRIPTOR,
    errno.ENOBUFS: DialReason.NO_DESCRIPTOR,
    errno.ENOMEM: DialReason.NO_DESCRIPTOR,
}


@dataclass(frozen=True, slots=True)
class DialFailure:
    """One attempt that failed."""

    address: IPAddress
    port: int
    reason: DialReason


class Dialled(NamedTuple):
    """A connected socket, non-blocking and without Nagle's delay.

    The poller of the dial watches it still, parked: `Poller.add` gives it a handler, and `Poller.forget`
    comes before closing it, as always. `seconds` is the time from the start of the dial, `failures` what was
    tried in vain before.
    """

    sock: socket.socket
    address: IPAddress
    port: int
    seconds: float
    failures: tuple[DialFailure, ...]


class DialError(EgressRouterError):
    """No address answered; `failures` says of each why not."""

    def __init__(self, failures: tuple[DialFailure, ...]) -> None:
        reasons = {failure.reason for failure in failures}
        self.reason = next((one for one in _WEIGHT if one in reasons), DialReason.UNREACHABLE)
        self.failures = failures
        tried = ", ".join(f"{each.address} port {each.port} {each.reason.value}" for each in failures)
        super().__init__(f"no connection: {tried or 'no address to try'}")


class Dial:
    """One connection being made.

    Calls `on_done` exactly once unless cancelled, never from inside `__init__`.
    """

    __slots__ = ("_attempts", "_deadline", "_deadlines", "_ends", "_failures", "_left", "_on_done", "_poller",
                 "_stagger", "_started")  # fmt: skip

    def __init__(
        self,
        poller: Poller,
        deadlines: Deadlines,
        targets: Sequence[tuple[IPAddress, int]],
        seconds: float,
        on_done: Callable[[Dialled | DialError], None],
        stagger: float = STAGGER,
    ) -> None:
        """Begin to connect to `targets`, in their order, for at most `seconds` in all."""
        self._poller = poller
        self._deadlines = deadlines
        self._on_done: Callable[[Dialled | DialError], None] | None = on_done
        self._stagger = stagger
        self._started = now = time.monotonic()
        self._ends = now + seconds
        self._left = list(reversed(targets))
        self._attempts: dict[_Attempt, None] = {}  # in the order of their start
        self._failures: list[DialFailure] = []
        self._deadline: Deadline | None = None
        self._next(now)

    def cancel(self) -> None:
        """Give up without calling back; after the call it does nothing."""
        self._on_done = None
        self._stop()

    def connected(self, attempt: _Attempt) -> None:
        """An attempt succeeded: it wins, the others end."""
        del self._attempts[attempt]
        seconds = time.monotonic() - self._started
        self._done(Dialled(attempt.sock, attempt.address, attempt.port, seconds, tuple(self._failures)))

    def failed(self, attempt: _Attempt, error: int) -> None:
        """An attempt failed: the next address is tried at once."""
        del self._attempts[attempt]
        self._note(attempt.address, attempt.port, error)
        if self._left or not self._attempts:
            self._next(time.monotonic())

    def _next(self, now: float) -> None:
        """Begin one more attempt; end the dial when there is nothing to begin and nothing to wait for."""
        self._drop_deadline()
        while self._left:
            address, port = self._left.pop()
            try:
                self._attempts[_Attempt(self, self._poller, address, port)] = None
            except OSError as error:
                self._note(address, port, error.errno or 0)
            else:
                break
        if self._attempts:
            remaining = max(self._ends - now, 0.0)
            wait = min(self._stagger, remaining) if self._left else remaining
            self._deadline = self._deadlines.add(wait, self._silence)
        else:
            self._poller.soon(self._fail)

    def _silence(self) -> None:
        now = time.monotonic()
        if self._left and now < self._ends:
            if len(self._attempts) == MOST_AT_ONCE:
                oldest = next(iter(self._attempts))
                oldest.close()
                self.failed(oldest, errno.ETIMEDOUT)
            else:
                self._next(now)
            return
        for attempt in self._attempts:
            self._note(attempt.address, attempt.port, errno.ETIMEDOUT)
        self._fail()

    def _fail(self) -> None:
        self._done(DialError(tuple(self._failures)))

    def _done(self, result: Dialled | DialError) -> None:
        self._stop()
        on_done, self._on_done = self._on_done, None
        if on_done is not None:
            on_done(result)

    def _stop(self) -> None:
        self._drop_deadline()
        self._left.clear()
        while self._attempts:
            self._attempts.popitem()[0].close()

    def _drop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _note(self, address: IPAddress, port: int, error: int) -> None:
        reason = _REASONS.get(error, DialReason.UNREACHABLE)
        self._failures.append(DialFailure(address, port, reason))


class _Attempt:
    """One non-blocking connect; raises OSError where it fails at once."""

    __slots__ = ("_dial", "_poller", "address", "port", "sock")

    def __init__(self, dial: Dial, poller: Poller, address: IPAddress, port: int) -> None:
        self._dial = dial
        self._poller = poller
        self.address = address
        self.port = port
        family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
        self.sock = socket.socket(family, _STREAM)
        try:
            error = self.sock.connect_ex((str(address), port))
            if error not in _UNDER_WAY:
                raise OSError(error, "connect")  # noqa: TRY301 - no exception in the usual case
            poller.add(self.sock.fileno(), self._ready)
        except OSError:
            self.sock.close()
            raise

    def close(self) -> None:
        self._poller.forget(self.sock.fileno())
        self.sock.close()

    def _ready(self, events: int) -> None:
        if events & _FAILED:
            error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self.close()
            self._dial.failed(self, error)
        elif events & select.EPOLLOUT:
            self._poller.park(self.sock.fileno(), came=bool(events & ~select.EPOLLOUT))
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._dial.connected(self)
