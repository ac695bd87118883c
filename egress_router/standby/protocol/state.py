"""All that a router knows, and what follows from it. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from egress_router.standby.protocol.arbiter import Arbiter
from egress_router.standby.protocol.gateway import Gateway
from egress_router.standby.protocol.hold_off import HoldOff
from egress_router.standby.protocol.peers import PeerTable
from egress_router.standby.protocol.requests import Requests
from egress_router.standby.protocol.role import MAY_SUCCEED, Role

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.standby.protocol.peers import Peer
    from egress_router.standby.protocol.timing import Timing


class State:
    """The values of the pair protocol. `StateMachine` changes them; the methods here only read."""

    __slots__ = (
        "arbiter",
        "asked_successor",
        "deadline",
        "epoch",
        "failed_until",
        "gateway",
        "handed_over_to",
        "hold_off",
        "is_address_free",
        "lease_requested_at",
        "leave_by",
        "listen_until",
        "me",
        "not_before",
        "now",
        "peers",
        "ready_until",
        "requests",
        "role",
        "since",
        "timing",
    )

    def __init__(self, me: int, now: float, timing: Timing, *, has_arbiter: bool) -> None:
        self.me = me
        self.now = now
        self.timing = timing
        self.role = Role.LISTENING
        self.since = now  # when the role began
        self.epoch = 0  # the number of take-overs that it knows of
        self.peers = PeerTable(timing.silent, timing.forget)
        self.arbiter = Arbiter(me, timing) if has_arbiter else None
        self.requests = Requests(timing.lease)
        self.gateway = Gateway(self.requests, timing)
        self.hold_off = HoldOff(timing.hold_off)
        self.deadline = -math.inf  # until when the gate is open, as far as this router decided
        self.listen_until = now + timing.listen
        self.not_before = now + timing.listen  # when it may open its gate at the earliest
        self.failed_until = -math.inf
        self.is_address_free = False  # whether no station outside the group has one of the addresses
        self.leave_by = math.inf  # when it leaves, even if its successor is not ready
        self.asked_successor = 0  # the router that it asked to get ready
        self.ready_until = -math.inf  # until when it is ready for a take-over, because it was asked to be
        self.lease_requested_at = -math.inf  # when it requested the lease that it gave up last
        self.handed_over_to = 0

    @property
    def term(self) -> int:
        """The term of the arbiter that it knows; 0 without an arbiter."""
        return self.arbiter.term if self.arbiter is not None else 0

    @property
    def may_open(self) -> float:
        """When it may open its gate at the earliest: after its hold-off, and not before `not_before`."""
        return max(self.hold_off.until, self.not_before)

    def is_able(self) -> bool:
        """Return whether others may rely on this router: it hears the gateway, and has not just failed."""
        return self.now >= self.failed_until and self.gateway.is_heard(self.now)

    def is_ready(self) -> bool:
        """Return whether it is ready for a take-over, because it was asked to be."""
        return self.role is Role.STANDBY and self.now < self.ready_until

    def needs_gateway(self) -> bool:
        """Return whether the lease depends on the gateway's answers, or soon will."""
        if self.role is Role.ACTIVE and self.arbiter is not None:
            return not self.peers.is_live(self.arbiter.partner, self.now)
        return self.role is Role.CLAIMING or (
            self.role is Role.ACTIVE and len(self.peers.live(self.now)) < len(self.peers)
        )

    def is_sole_member(self) -> bool:
        """Return whether the arbiter names only this router: roles that others claim end by themselves."""
        return self.arbiter is not None and self.arbiter.is_alone

    def may_hold_lease(self, number: int) -> bool:
        """Return whether a router may have the lease at all, as far as this one knows."""
        arbiter = self.arbiter
        return arbiter is None or not arbiter.is_member or number in (arbiter.members or ())

    def may_claim(self) -> bool:
        """Return whether no other router seems to be active, or about to be."""
        if not self.is_address_free or self.now < self.not_before - self.timing.hold_off:
            return False
        for peer in self.peers.live(self.now):
            last = peer.last
            if last.role is Role.ACTIVE and not self.is_sole_member():
                return False
            if last.ack_to not in {0, self.me} and self.may_hold_lease(last.ack_to):
                return False
            is_better = last.role is Role.CLAIMING and (last.able, last.sender) > (self.is_able(), self.me)
            if is_better and self.may_hold_lease(last.sender):
                return False
        return True

    def successor(self) -> Peer | None:
        """Return the router that should get the lease that this router gives up; None without one."""
        successors = [peer for peer in self._candidates() if peer.last.role in MAY_SUCCEED]
        return max(successors, key=lambda peer: (peer.last.able, peer.last.sender), default=None)

    def _candidates(self) -> Iterator[Peer]:
        arbiter = self.arbiter
        for peer in self.peers.live(self.now):
            # Only the other member, unless this router has just tried to leave it out.
            if arbiter is None or (arbiter.partner == peer.last.sender and arbiter.floor <= arbiter.term):
                yield peer

    def is_needed(self) -> bool:
        """Return whether a leaving router should stay longer: others need its acknowledgements."""
        if self.role is not Role.LEAVING:
            return False
        if self.arbiter is not None and self._may_be_last(self.arbiter):
            return True  # until the arbiter no longer names it
        if self.handed_over_to:
            successor = self.peers.get(self.handed_over_to)
            if successor is None or not self.peers.is_live(self.handed_over_to, self.now):
                return False
            if successor.last.role is not Role.ACTIVE:
                return True
        active = self.peers.active(self.now)
        return active is not None and active.last.depends_on == self.me

    def _may_be_last(self, arbiter: Arbiter) -> bool:
        """Return whether this leaving router is the last member, or cannot know yet.

        It has to know what the arbiter holds, and to have heard the other member since it began to leave.
        """
        if not arbiter.fresh or self.is_last(arbiter):
            return True
        partner = self.peers.get(arbiter.partner)
        return partner is not None and partner.heard <= self.since

    def is_last(self, arbiter: Arbiter) -> bool:
        """Return whether this leaving router may be the last member: then others would wait for it."""
        if not arbiter.is_member:
            return False
        partner = self.peers.get(arbiter.partner)
        is_silent = not self.peers.is_live(arbiter.partner, self.now)
        return is_silent or partner is None or partner.last.role is Role.LEAVING or not arbiter.fresh
