"""What a router knows of the arbiter: which routers may open their gates at all. Pure.

The arbiter holds the members of the group, at most two, and changes only by compare-and-swap. A router has
the lease as the only member while its last write is young enough, or as one of two members while the other
one acknowledges. So a router that is left out has lost its lease before another one can get it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from egress_router.standby.protocol.commands import AskArbiter

if TYPE_CHECKING:
    from egress_router.standby.protocol.commands import ArbiterAnswer, Members
    from egress_router.standby.protocol.timing import Timing


class Arbiter:
    """The last known state of the arbiter, and the request that has no answer yet.

    `bound` is the time until which others certainly respect the members as they are known here. `floor` is
    the first term in which our acknowledgements may still count: a router that tried to leave another one out
    does not acknowledge it any more. `partner` is the number of the other member, 0 without one. `alone` is
    the set of members if this router is the only one.
    """

    __slots__ = (
        "_doubt",
        "_me",
        "_next",
        "_timing",
        "_token",
        "alone",
        "bound",
        "checked",
        "floor",
        "fresh",
        "is_alone",
        "is_member",
        "members",
        "partner",
        "pending",
        "renewed",
        "since",
        "sole_request",
        "sole_until",
        "term",
        "version",
    )

    def __init__(self, me: int, timing: Timing) -> None:
        self._me = me
        self.alone: Members = frozenset({me})
        self._timing = timing
        self._token = 0
        self._doubt = ""  # the version that a write with unknown outcome would replace
        self._next = -math.inf
        self._set_members(None)
        self.version: str | None = None
        self.term = 0
        self.floor = 0
        self.since = 0.0  # when this version was first seen
        self.checked = -math.inf
        self.renewed = -math.inf
        self.bound = math.inf
        self.sole_request = 0
        self.sole_until = -math.inf
        self.pending: tuple[AskArbiter, int, float] | None = None
        self.fresh = False  # whether `version` may be the base of a write

    def may_ask(self, now: float) -> bool:
        """Return whether a request may be sent now; one without an answer in time is taken as lost."""
        if self.pending is not None:
            if now < self.pending[2] + self._timing.ask:
                return False
            self._outcome_unknown(now)
        return now >= self._next

    @property
    def in_doubt(self) -> bool:
        """Whether a write with unknown outcome may still be applied."""
        return self._doubt != "" and self._doubt == self.version

    def _set_members(self, members: Members | None) -> None:
        self.members = members
        self.is_member = members is not None and self._me in members
        self.is_alone = members == self.alone
        self.partner = next(iter(members - self.alone), 0) if members is not None and self.is_member else 0

    def is_stale(self, now: float) -> bool:
        """Return whether the members have not written to the arbiter for too long."""
        if self.members is None or self.version is None:
            return False
        if not self.members:
            return True
        limit = self._timing.stale_alone if len(self.members) == 1 else self._timing.stale_pair
        return now - self.since > limit

    def read(self, now: float) -> AskArbiter:
        """Return a request to read the arbiter."""
        return self._ask(None, self.term, 0, now)

    def write(self, members: Members, request: int, now: float) -> AskArbiter:
        """Return a request to change the members, or, with the same members, to renew them.

        `request` is the one whose timer runs for the write; a lease by this write ends with that timer.
        """
        term = self.term if members == self.members else self.term + 1
        self.floor = max(self.floor, term)
        if self.is_alone and members != self.members:
            self.bound = self.sole_until
            self.sole_request, self.sole_until = 0, -math.inf
            if self._me in members:
                # The answer may get lost: the partner's acknowledgements are needed from now on.
                self._set_members(members)
        elif members == self.alone and self.partner:
            self.bound = now + self._timing.alone
        return self._ask(members, term, request, now)

    def _ask(self, members: Members | None, term: int, request: int, now: float) -> AskArbiter:
        self._token += 1
        ask = AskArbiter(self._token, members, term, self.version or "")
        self.pending = (ask, request, now)
        self.checked = now
        return ask

    def lose_lease(self) -> None:
        """Record that the gate is closed: the lease of the only member has to be requested again."""
        self.sole_request, self.sole_until = 0, -math.inf

    def adopt(self, members: Members, term: int) -> None:
        """Use the members that a member has sent, until the arbiter is read."""
        self._set_members(members)
        self.term, self.fresh = term, False
        self.bound = math.inf

    def answer(self, answer: ArbiterAnswer, now: float) -> None:
        """Process an answer; an answer to an older request is ignored."""
        if self.pending is None or self.pending[0].token != answer.token:
            return
        ask, request, requested_at = self.pending
        if not answer.applied and (answer.members is None or answer.version is None):
            self._outcome_unknown(now)
            return
        self.pending, self.fresh = None, True
        if answer.applied and ask.members is not None:
            self._applied(ask, request, requested_at, answer, now)
        else:
            self._seen(answer, now)

    def _applied(
        self, ask: AskArbiter, request: int, requested_at: float, answer: ArbiterAnswer, now: float
    ) -> None:
        self._set_members(ask.members)
        self.term, self.version = ask.term, answer.version
        self.floor, self._doubt = ask.term, ""
        self.since = now
        self.bound = math.inf
        if self.is_alone and request:
            self.renewed = requested_at
            self.sole_request, self.sole_until = request, requested_at + self._timing.alone

    def _seen(self, answer: ArbiterAnswer, now: float) -> None:
        if answer.version != self.version or self.members != answer.members:
            self.since = now
        self._set_members(answer.members)
        self.term, self.version = answer.term, answer.version
        if not self.in_doubt:
            self.floor, self._doubt = answer.term, ""
            if self.partner:
                self.bound = math.inf
        if not self.is_alone:
            self.sole_request, self.sole_until = 0, -math.inf

    def _outcome_unknown(self, now: float) -> None:
        """Record that a request was not answered: a write may be applied now, later, or never."""
        if self.pending is not None and self.pending[0].members is not None:
            self._doubt = self.pending[0].version
        self.pending = None
        self.fresh = False
        self._next = now + self._timing.retry
