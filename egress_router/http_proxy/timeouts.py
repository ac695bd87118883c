"""The timeouts of a client's connection; when one expires, a method of the connection is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from egress_router.relay.deadlines import Deadline, Deadlines
    from egress_router.settings.http_proxy import HttpLimits


class Owner(Protocol):
    """A connection with timeouts."""

    def head_late(self) -> None:
        """Called when the head of a request was not complete in time."""

    def idle_late(self) -> None:
        """Called when no request has come for too long."""

    def answer_late(self) -> None:
        """Called when for too long no byte of the request has moved, and its answer has not begun."""

    def more_late(self) -> None:
        """Called when an answer that has begun has not moved for too long."""


class Timeouts:
    """One timeout for a head, three for silence: between requests, until an answer begins, while it comes.

    The three run until they expire, although usually nothing is awaited any more by then: the owner checks
    whether they still matter. Postponing one costs a look at the clock; to cancel one and add another for
    each request would cost far more.
    """

    __slots__ = ("_answer", "_deadlines", "_head", "_idle", "_limits", "_more", "_owner")

    def __init__(self, owner: Owner, deadlines: Deadlines, limits: HttpLimits) -> None:
        self._owner: Owner | None = owner
        self._deadlines = deadlines
        self._limits = limits
        self._head: Deadline | None = None
        self._idle: Deadline | None = None
        self._answer: Deadline | None = None
        self._more: Deadline | None = None

    def await_head(self) -> None:
        """Start the timeout for a head, unless it runs already."""
        if self._head is None:
            self._head = self._deadlines.add(self._limits.head_seconds, self._head_late)

    def head_came(self) -> None:
        """Stop the timeout for a head."""
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def await_request(self) -> None:
        """Restart the idle timeout."""
        if self._idle is None:
            self._idle = self._deadlines.add(self._limits.keepalive_seconds, self._idle_late)
        else:
            self._idle.touch()

    def await_answer(self) -> None:
        """Restart the timeout until an answer begins."""
        if self._answer is None:
            self._answer = self._deadlines.add(self._limits.answer_seconds, self._answer_late)
        else:
            self._answer.touch()

    def await_more(self) -> None:
        """Restart the timeout for more of an answer."""
        if self._more is None:
            self._more = self._deadlines.add(self._limits.idle_seconds, self._more_late)
        else:
            self._more.touch()

    def stop(self) -> None:
        """Stop all timeouts; they may be started again."""
        for deadline in (self._head, self._idle, self._answer, self._more):
            if deadline is not None:
                deadline.cancel()
        self._head = self._idle = self._answer = self._more = None

    def end(self) -> None:
        """Stop all timeouts for good, and break the reference cycle with the owner."""
        self.stop()
        self._owner = None

    def _head_late(self) -> None:
        self._head = None
        if self._owner is not None:
            self._owner.head_late()

    def _idle_late(self) -> None:
        self._idle = None
        if self._owner is not None:
            self._owner.idle_late()

    def _answer_late(self) -> None:
        self._answer = None
        if self._owner is not None:
            self._owner.answer_late()

    def _more_late(self) -> None:
        self._more = None
        if self._owner is not None:
            self._owner.more_late()
