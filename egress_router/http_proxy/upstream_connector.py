"""Makes the connection for a request: decides, looks the name up, decides on its addresses, dials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from egress_router.http_proxy import replies
from egress_router.http_proxy.callbacks import result_callback
from egress_router.names.answer import Answer, Failure
from egress_router.policy.access_list import Verdict
from egress_router.relay.dial import STAGGER, Dial, DialError, DialReason
from egress_router.relay.sources import ways

if TYPE_CHECKING:
    from egress_router.http_proxy.replies import Reply
    from egress_router.http_proxy.request_info import RequestInfo
    from egress_router.http_proxy.worker_state import WorkerState
    from egress_router.policy.access_list import Decision
    from egress_router.relay.dial import Dialled

_LEAST_SECONDS = 0.05  # for the dial, even if the look-up took nearly all of the time


class Owner(Protocol):
    """The connection that the request came over. Unless it can `reuse`, one of the others is called, once."""

    def reuse(self) -> bool:
        """Use an open connection if there is one to an allowed address; say whether there was."""

    def connected(self, info: RequestInfo, dialled: Dialled) -> None:
        """Use this new connection."""

    def answer_and_close(self, reply: Reply) -> None:
        """Send this answer, and end."""

    def fault(self, error: Exception) -> None:
        """End, because of an unexpected error."""


class _Cancellable(Protocol):
    def cancel(self) -> object: ...


class UpstreamConnector:
    """Serves one request.

    `tunnel_turns` is for a tunnel: how often the client's connection has already come back to this proxy.
    None: no tunnel, the proxy reads what goes over the connection.
    """

    __slots__ = ("_began", "_list", "_owner", "_turns", "_waiting", "_worker", "info")

    def __init__(
        self, worker: WorkerState, owner: Owner, info: RequestInfo, tunnel_turns: int | None
    ) -> None:
        self._worker = worker
        self._owner = owner
        self.info = info
        self._turns = tunnel_turns
        self._began = 0.0  # when the dial began, by the monotonic clock
        self._list = 0  # AccessControl.lists at the time of the decision
        self._waiting: _Cancellable | None = None

    def __repr__(self) -> str:
        return f"<UpstreamConnector {self.info.who} {self.info} waits for {self._waiting!r}>"

    def begin(self) -> None:
        """Decide: at once if nothing has to be looked up."""
        target = self.info.target
        decision = self._worker.access.at_once(target)
        if decision is not None:
            self._decided(decision)
        elif isinstance(target.asked, str):
            seconds = self._worker.limits.connect_seconds
            self._worker.accounting.name_asked(self.info)
            self._waiting = self._worker.access.look_up(
                target.asked, self.info.client, seconds, self._looked_up
            )

    def dial(self) -> None:
        """Connect to the addresses that were decided on."""
        worker, port = self._worker, self.info.target.port
        decided = [(address, port) for address in self.info.decision.addresses]
        targets, sources = ways(decided, self.info.leaving, worker.sources, next(worker.turns))
        if decided and not targets:
            self._fail(replies.OTHER_FAMILY)
            return
        seconds = max(_LEAST_SECONDS, worker.limits.connect_seconds - self.info.dns_seconds)
        self._began = worker.clock.monotonic()
        # A tunnel has no Via field: only the connection can show that it leads back here.
        self._waiting = Dial(
            worker.plane, targets, seconds, self._dialled, STAGGER, sources, turns=self._turns
        )

    def cancel(self) -> None:
        """Give up; the owner is not called."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def fail(self, reply: Reply) -> None:
        """End a waiting request with this answer."""
        self.cancel()
        self._worker.accounting.given_up(self.info, reply)
        self._end(reply)

    def fault(self, error: Exception) -> None:
        """End the client's connection, because of an unexpected error."""
        self._owner.fault(error)

    @result_callback
    def _looked_up(self, found: Answer | Failure) -> None:
        self._waiting = None
        self.info.dns_seconds = self._worker.clock.monotonic() - self.info.started
        self._worker.accounting.name_answered(self.info, found)
        if not isinstance(found, Failure):
            self._decided(self._worker.access.by_addresses(self.info.target, found.addresses, found.name))
            return
        if found is Failure.TIMEOUT:
            self._worker.accounting.limit("connect_seconds")
        decision = self._worker.access.by_failure(self.info.target)
        if decision is None:
            reply = replies.unresolved(found)
            self._worker.accounting.undecided(self.info, reply)
            self._end(reply)
        else:
            self._decided(decision)

    def _decided(self, decision: Decision) -> None:
        self._list = self._worker.access.lists
        self._worker.accounting.decided(self.info, decision)
        if decision.verdict is Verdict.DENIED:
            self._end(replies.denied(decision))
        elif self._turns is not None or not self._owner.reuse():
            self.dial()

    @result_callback
    def _dialled(self, result: Dialled | DialError) -> None:
        self._waiting = None
        self._worker.accounting.attempts_failed(self.info, result.failures)
        if isinstance(result, DialError):
            self.info.connect_seconds = self._worker.clock.monotonic() - self._began
            if result.failures:
                self.info.address = result.failures[-1].address  # the last one tried
            if result.reason is DialReason.TIMEOUT:
                self._worker.accounting.limit("connect_seconds")
            self._fail(replies.unreached(result))
            return
        if self._list != self._worker.access.lists and not self._still_allowed(result):
            return
        self.info.address = result.address
        self.info.connect_seconds = result.seconds
        try:
            self._worker.accounting.connected(self.info, result.sock)
            self._owner.connected(self.info, result)
        except Exception:  # nobody else will close it
            result.sock.close()
            raise

    def _still_allowed(self, dialled: Dialled) -> bool:
        """Decide again, because the list has changed during the dial; act on a new decision."""
        before = self.info.decision
        decision = self._worker.access.by_addresses(self.info.target, before.addresses, before.full_name)
        if dialled.address in decision.addresses and decision.leaving == before.leaving:
            return True
        dialled.sock.close()
        self._decided(decision)
        return False

    def _fail(self, reply: Reply) -> None:
        self._worker.accounting.failed(self.info, reply)
        self._end(reply)

    def _end(self, reply: Reply) -> None:
        self._worker.accounting.closed(self.info, reply.status, 0, 0, reply.reason)
        self._owner.answer_and_close(reply)
