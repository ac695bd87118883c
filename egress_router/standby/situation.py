"""All that a router knows at a moment, and what follows from it by itself. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from egress_router.standby.gateway import Gateway
from egress_router.standby.peers import Peers
from egress_router.standby.promise import Promise
from egress_router.standby.questions import Questions
from egress_router.standby.role import SUCCEEDING, Role
from egress_router.standby.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.standby.peers import Peer
    from egress_router.standby.timing import Timing


class Situation:
    """The values of the pair protocol; `Machine` changes them, the questions below only read."""

    __slots__ = (
        "asked_heir",
        "deadline",
        "epoch",
        "failed_until",
        "gateway",
        "granted_to",
        "is_free",
        "leave_by",
        "listen_until",
        "me",
        "not_before",
        "now",
        "peers",
        "promise",
        "questions",
        "ready_until",
        "right_asked",
        "role",
        "since",
        "timing",
        "witness",
    )

    def __init__(self, me: int, now: float, timing: Timing, *, has_witness: bool) -> None:
        self.me = me
        self.now = now
        self.timing = timing
        self.role = Role.LISTENING
        self.since = now  # the role's beginning
        self.epoch = 0  # how many take-overs it knows of
        self.peers = Peers(timing.silent, timing.forget)
        self.witness = Witness(me, timing) if has_witness else None
        self.questions = Questions(timing.lease)
        self.gateway = Gateway(self.questions, timing)
        self.promise = Promise(timing.promise)
        self.deadline = -math.inf  # until when the gate is open, as far as this router decided
        self.listen_until = now + timing.listen
        self.not_before = now + timing.listen  # when it may open its gate at the earliest
        self.failed_until = -math.inf
        self.is_free = False  # whether no station outside the group has one of the addresses
        self.leave_by = math.inf  # when it leaves whether its heir is ready or not
        self.asked_heir = 0  # whom it asked to make itself ready
        self.ready_until = -math.inf  # how long it is ready to take over, because it was asked to be
        self.right_asked = -math.inf  # when the question was asked that gave it the right that it gave up
        self.granted_to = 0

    @property
    def term(self) -> int:
        """Which membership of the witness it believes in."""
        return self.witness.term if self.witness is not None else 0

    @property
    def may_open(self) -> float:
        """When it may open its gate at the earliest, by what it promised and what it saw."""
        return max(self.promise.until, self.not_before)

    def is_able(self) -> bool:
        """Say whether others may count on this router: it hears the gateway, and has not just failed."""
        return self.now >= self.failed_until and self.gateway.is_heard(self.now)

    def is_ready(self) -> bool:
        """Say whether it was asked to make itself ready for a take-over, and still is."""
        return self.role is Role.STANDBY and self.now < self.ready_until

    def needs_gateway(self) -> bool:
        """Say whether the gateway's answers are part of the right to send, or will be."""
        if self.role is Role.ACTIVE and self.witness is not None:
            return not self.peers.is_live(self.witness.partner, self.now)
        return self.role is Role.CLAIMING or (
            self.role is Role.ACTIVE and len(self.peers.live(self.now)) < len(self.peers)
        )

    def has_won(self) -> bool:
        """Say whether the witness names this router alone: what others say they are then ends by itself."""
        return self.witness is not None and self.witness.is_alone

    def counts(self, number: int) -> bool:
        """Say whether a router may have the right at all, as far as this one knows."""
        witness = self.witness
        return witness is None or not witness.is_member or number in (witness.members or ())

    def may_claim(self) -> bool:
        """Say whether nobody else seems to be active, or about to be."""
        if not self.is_free or self.now < self.not_before - self.timing.promise:
            return False
        for peer in self.peers.live(self.now):
            last = peer.last
            if last.role is Role.ACTIVE and not self.has_won():
                return False
            if last.promise_to not in {0, self.me} and self.counts(last.promise_to):
                return False
            is_better = last.role is Role.CLAIMING and (last.able, last.sender) > (self.is_able(), self.me)
            if is_better and self.counts(last.sender):
                return False
        return True

    def heir(self) -> Peer | None:
        """Choose who gets the right that this router gives up."""
        heirs = [peer for peer in self._candidates() if peer.last.role in SUCCEEDING]
        return max(heirs, key=lambda peer: (peer.last.able, peer.last.sender), default=None)

    def _candidates(self) -> Iterator[Peer]:
        witness = self.witness
        for peer in self.peers.live(self.now):
            # To the other member, unless this router has just tried to leave it out.
            if witness is None or (witness.partner == peer.last.sender and witness.floor <= witness.term):
                yield peer

    def is_needed(self) -> bool:
        """Say whether a leaving router should stay a moment longer, because others count on its promises."""
        if self.role is not Role.LEAVING:
            return False
        if self.witness is not None and self._may_be_last(self.witness):
            return True  # until the witness names it no longer
        if self.granted_to:
            heir = self.peers.get(self.granted_to)
            if heir is None or not self.peers.is_live(self.granted_to, self.now):
                return False
            if heir.last.role is not Role.ACTIVE:
                return True
        active = self.peers.active(self.now)
        return active is not None and active.last.leans_on == self.me

    def _may_be_last(self, witness: Witness) -> bool:
        """Say whether this leaving router is the last member, or cannot know yet.

        It has to know what the witness holds, and to have heard the other member since it began to leave.
        """
        if not witness.fresh or self.is_last(witness):
            return True
        partner = self.peers.get(witness.partner)
        return partner is not None and partner.heard <= self.since

    def is_last(self, witness: Witness) -> bool:
        """Say whether this leaving router may be the last member, so that others would wait for it."""
        if not witness.is_member:
            return False
        partner = self.peers.get(witness.partner)
        is_left = not self.peers.is_live(witness.partner, self.now)
        return is_left or partner is None or partner.last.role is Role.LEAVING or not witness.fresh
