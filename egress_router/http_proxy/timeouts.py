"""The times that a client's connection is given; when one is over, the connection hears of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from egress_router.relay.deadlines import Deadline, Deadlines
    from egress_router.settings.http_proxy import HttpLimits


class Owner(Protocol):
    """A connection that times are running for."""

    def head_late(self) -> None:
        """The head of a request has not come to its end in time."""

    def idle_late(self) -> None:
        """No request has come for too long."""

    def answer_late(self) -> None:
        """For too long the request has not moved, and its answer has not begun."""

    def more_late(self) -> None:
        """An answer that has begun has not moved for too long."""


class Timeouts:
    """One time for a head, and three silences: between requests, until an answer begins, while it comes.

    The three run on until they are over, though mostly there is nothing to wait for any more: the owner
    checks then whether they still mean something. To put one off costs a look at the time, to cancel and add
    one for each request far more.
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
        """Let the time for a head begin, unless it runs already."""
        if self._head is None:
            self._head = self._deadlines.add(self._limits.head_seconds, self._head_late)

    def head_came(self) -> None:
        """End the time for a head."""
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def await_request(self) -> None:
        """Let the idle time begin anew."""
        if self._idle is None:
            self._idle = self._deadlines.add(self._limits.keepalive_seconds, self._idle_late)
        else:
            self._idle.touch()

    def await_answer(self) -> None:
        """Let the time until an answer begins begin anew."""
        if self._answer is None:
            self._answer = self._deadlines.add(self._limits.answer_seconds, self._answer_late)
        else:
            self._answer.touch()

    def await_more(self) -> None:
        """Let the time for more of an answer begin anew."""
        if self._more is None:
            self._more = self._deadlines.add(self._limits.idle_seconds, self._more_late)
        else:
            self._more.touch()

    def stop(self) -> None:
        """Wait for nothing, for now."""
        for deadline in (self._head, self._idle, self._answer, self._more):
            if deadline is not None:
                deadline.cancel()
        self._head = self._idle = self._answer = self._more = None

    def end(self) -> None:
        """Wait for nothing any more; the owner and this refer to each other."""
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
