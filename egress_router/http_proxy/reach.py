"""The way of a request from its target to a connection: decide, look the name up, decide on it, dial."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from egress_router.http_proxy import replies
from egress_router.http_proxy.guard import guarded_result
from egress_router.http_proxy.policy import DENIED
from egress_router.names.answer import Answer, Failure
from egress_router.relay.dial import Dial, DialError, DialReason

if TYPE_CHECKING:
    from egress_router.http_proxy.ledger import Passage
    from egress_router.http_proxy.policy import Decision
    from egress_router.http_proxy.replies import Reply
    from egress_router.http_proxy.site import Site
    from egress_router.relay.dial import Dialled

_LEAST_SECONDS = 0.05  # to dial, after a look-up that took nearly all there was


class Owner(Protocol):
    """Whose request it is; one of these is called, once."""

    def reuse(self, passage: Passage) -> bool:
        """Go on over a connection that is open, and say whether there was one to an allowed address."""

    def connected(self, passage: Passage, dialled: Dialled) -> None:
        """Go on over a new connection."""

    def farewell(self, reply: Reply) -> None:
        """End with these words."""

    def fault(self, error: Exception) -> None:
        """End, because of something that must not happen."""


class _Cancellable(Protocol):
    def cancel(self) -> object: ...


class Reach:
    """One request on this way."""

    __slots__ = ("_began", "_list", "_owner", "_site", "_waiting", "passage")

    def __init__(self, site: Site, owner: Owner, passage: Passage) -> None:
        self._site = site
        self._owner = owner
        self.passage = passage
        self._began = 0.0  # to dial
        self._list = 0  # by which the decision was made
        self._waiting: _Cancellable | None = None

    def begin(self) -> None:
        """Decide, at once where nothing has to be looked up."""
        target = self.passage.target
        decision = self._site.judge.at_once(target)
        if decision is not None:
            self._decided(decision)
        elif isinstance(target.asked, str):
            seconds = self._site.limits.connect_seconds
            self._waiting = self._site.judge.look_up(
                target.asked, self.passage.client, seconds, self._looked_up
            )

    def dial(self) -> None:
        """Connect to the addresses that were decided on."""
        port = self.passage.target.port
        targets = [(address, port) for address in self.passage.decision.addresses]
        seconds = max(_LEAST_SECONDS, self._site.limits.connect_seconds - self.passage.dns_seconds)
        self._began = time.monotonic()
        self._waiting = Dial(self._site.plane, targets, seconds, self._dialled)

    def cancel(self) -> None:
        """Give up; the owner is not called."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def fail(self, reply: Reply) -> None:
        """End the request with these words while it waits."""
        self.cancel()
        self._site.ledger.given_up(self.passage, reply)
        self._end(reply)

    def fault(self, error: Exception) -> None:
        """End the session, because of something that must not happen."""
        self._owner.fault(error)

    @guarded_result
    def _looked_up(self, found: Answer | Failure) -> None:
        self._waiting = None
        self.passage.dns_seconds = time.monotonic() - self.passage.started
        if not isinstance(found, Failure):
            self._decided(self._site.judge.by_addresses(self.passage.target, found.addresses, found.name))
            return
        if found is Failure.TIMEOUT:
            self._site.ledger.limit("connect_seconds")
        decision = self._site.judge.by_failure(self.passage.target)
        if decision is None:
            reply = replies.unresolved(found)
            self._site.ledger.undecided(self.passage, reply)
            self._end(reply)
        else:
            self._decided(decision)

    def _decided(self, decision: Decision) -> None:
        self._list = self._site.judge.lists
        self._site.ledger.decided(self.passage, decision)
        if decision.verdict is DENIED:
            self._end(replies.denied(decision))
        elif self.passage.target.tunnel or not self._owner.reuse(self.passage):
            self.dial()

    @guarded_result
    def _dialled(self, result: Dialled | DialError) -> None:
        self._waiting = None
        if isinstance(result, DialError):
            self.passage.connect_seconds = time.monotonic() - self._began
            if result.failures:
                self.passage.address = result.failures[-1].address  # the one that was tried last
            if result.reason is DialReason.TIMEOUT:
                self._site.ledger.limit("connect_seconds")
            self._fail(replies.unreached(result))
            return
        if self._list != self._site.judge.lists and not self._still_allowed(result):
            return
        self.passage.address = result.address
        self.passage.connect_seconds = result.seconds
        try:
            self._site.ledger.connected(self.passage)
            self._owner.connected(self.passage, result)
        except Exception:  # nobody owns it
            result.sock.close()
            raise

    def _still_allowed(self, dialled: Dialled) -> bool:
        """Decide again, the list having changed during the dial; go on by that where it wants another way."""
        before = self.passage.decision
        decision = self._site.judge.by_addresses(self.passage.target, before.addresses, before.full_name)
        if dialled.address in decision.addresses:
            return True
        dialled.sock.close()
        self._decided(decision)
        return False

    def _fail(self, reply: Reply) -> None:
        self._site.ledger.failed(self.passage, reply)
        self._end(reply)

    def _end(self, reply: Reply) -> None:
        self._site.ledger.closed(self.passage, reply.status, 0, 0, reply.reason)
        self._owner.farewell(reply)
