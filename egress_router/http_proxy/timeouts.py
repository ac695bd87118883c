"""How long a session waits for its client, and for an origin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egress_router.http_proxy.worker_state import WorkerState
    from egress_router.relay.deadlines import Deadline


class Timeouts(ABC):
    """The times of a session, which decides whether one that ran out still matters.

    All but the head's run on while another phase has no use for them: to restart one costs a note of the
    time, to cancel and add one for each request far more.
    """

    __slots__ = ("_answer", "_head", "_idle", "_more", "worker")

    def __init__(self, worker: WorkerState) -> None:
        self.worker = worker
        self._head: Deadline | None = None
        self._idle: Deadline | None = None
        self._answer: Deadline | None = None
        self._more: Deadline | None = None

    @abstractmethod
    def head_late(self) -> None:
        """The head of a request has not come to its end in time."""

    @abstractmethod
    def idle_late(self) -> None:
        """No request has come for too long."""

    @abstractmethod
    def answer_late(self) -> None:
        """Neither has the request moved for too long, nor has its answer begun."""

    @abstractmethod
    def more_late(self) -> None:
        """An answer that has begun has not moved for too long."""

    def await_head(self) -> None:
        """Let the time for a head begin, unless it runs already."""
        if self._head is None:
            self._head = self.worker.deadlines.add(self.worker.limits.head_seconds, self._head_late)

    def head_came(self) -> None:
        """End the time for a head."""
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def await_request(self) -> None:
        """Let the idle time begin anew."""
        if self._idle is None:
            self._idle = self.worker.deadlines.add(self.worker.limits.keepalive_seconds, self._idle_late)
        else:
            self._idle.touch()

    def await_answer(self) -> None:
        """Let the time until an answer begins begin anew."""
        if self._answer is None:
            self._answer = self.worker.deadlines.add(self.worker.limits.answer_seconds, self._answer_late)
        else:
            self._answer.touch()

    def await_more(self) -> None:
        """Let the time for more of an answer begin anew."""
        if self._more is None:
            self._more = self.worker.deadlines.add(self.worker.limits.idle_seconds, self._more_late)
        else:
            self._more.touch()

    def await_nothing(self) -> None:
        """Wait for nothing any more."""
        for deadline in (self._head, self._idle, self._answer, self._more):
            if deadline is not None:
                deadline.cancel()
        self._head = self._idle = self._answer = self._more = None

    def _head_late(self) -> None:
        self._head = None
        self.head_late()

    def _idle_late(self) -> None:
        self._idle = None
        self.idle_late()

    def _answer_late(self) -> None:
        self._answer = None
        self.answer_late()

    def _more_late(self) -> None:
        self._more = None
        self.more_late()
