"""The pair protocol: messages, answers and times in, actions out. Pure.

The right to send is never a belief of this router alone. It is an answer to a numbered question: the kernel's
timer for the question was started before the question was asked, and what the answer permits ends with that
timer, whenever it is acted upon. docs/decisions/standby.md says why two routers never have it at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from egress_router.standby import membership
from egress_router.standby.moves import Moves
from egress_router.standby.right import right
from egress_router.standby.role import EAGER, ENDING, Role
from egress_router.standby.situation import Situation
from egress_router.standby.timing import DEFAULT, Timing

if TYPE_CHECKING:
    from egress_router.standby.actions import Action, Answer, Message
    from egress_router.standby.peers import Peer, Peers
    from egress_router.standby.witness import Witness


class Machine:
    """One router's view of its group; every method returns what the shell has to do, in this order.

    The shell reads the clock after it received what it passes in: a promise counts from then on.
    """

    def __init__(self, me: int, now: float, *, has_witness: bool, timing: Timing = DEFAULT) -> None:
        self.me = me  # the number of this run of this router
        self.situation = Situation(me, now, timing, has_witness=has_witness)
        self._timing = timing
        self._moves = Moves(self.situation)
        self._ticked = now

    @property
    def role(self) -> Role:
        """What this router is at the moment."""
        return self.situation.role

    @property
    def since(self) -> float:
        """Since when it is that."""
        return self.situation.since

    @property
    def peers(self) -> Peers:
        """The other routers that it knows of."""
        return self.situation.peers

    @property
    def witness(self) -> Witness | None:
        """What it knows of the witness, where there is one."""
        return self.situation.witness

    # What happens to a router

    def tick(self, now: float) -> list[Action]:
        """Let time pass; to be called every half beat or so."""
        situation = self._begin(now)
        stood_still = now - self._ticked
        if stood_still > 2 * self._timing.beat:
            situation.peers.excuse(stood_still, now)
        self._ticked = now
        situation.peers.forget(now)
        if situation.leave_by < math.inf:
            self._leave_in_time()
        self._change_role()
        self._step_aside()
        if situation.witness is not None and situation.role is not Role.GONE:
            self._consult(situation.witness)
        self._use_right()
        self._moves.speak_in_time()
        return self._moves.flush()

    def free(self, now: float) -> list[Action]:
        """Take in that no station outside the group has one of the addresses (RFC 5227)."""
        self._begin(now).is_free = True
        return self._moves.flush()

    def answered(self, now: float) -> list[Action]:
        """Take in that some station answers for one of the addresses: its gate is open, whatever it says."""
        self._begin(now)
        self._moves.wait_until(now + 3 * self._timing.beat)
        return self._moves.flush()

    def gateway(self, slot: int, now: float) -> list[Action]:
        """Take in that the gateway answered what was asked with question `slot`."""
        self._begin(now).gateway.answered(slot, now)
        self._use_right()
        return self._moves.flush()

    def carrier_lost(self, now: float) -> list[Action]:
        """Take in that the interface has no carrier: nothing can be sent, so another one should."""
        self._begin(now).gateway.lost()
        self._step_aside()
        return self._moves.flush()

    def heard(self, message: Message, now: float) -> list[Action]:
        """Take a message of another router in."""
        situation = self.situation
        if message.sender == self.me or situation.role is Role.GONE:
            return []
        self._begin(now)
        peer = situation.peers.hear(message, now)
        if peer is None:
            return self._moves.flush()
        situation.epoch = max(situation.epoch, message.epoch)
        if message.sender == situation.promise.to and message.role not in EAGER:
            situation.promise.follow(message, self.me)
        if message.promise_to == self.me:
            peer.promised = max(peer.promised, message.promise_seq)
        if message.role is Role.GONE:
            situation.peers.drop(message.sender)
        elif message.grant_to == self.me:
            self._moves.accept(message)
        elif message.role is Role.ACTIVE:
            self._meet_active(peer)
        elif message.role is Role.CLAIMING:
            self._meet_claimer(peer)
        elif situation.role is Role.LEAVING and message.sender == situation.granted_to:
            self._moves.grant(peer)  # it spoke before it heard of the grant, or the grant was lost
        self._use_right()
        if situation.leave_by < math.inf:
            self._leave_in_time()
        return self._moves.flush()

    def witnessed(self, answer: Answer, now: float) -> list[Action]:
        """Take an answer of the witness in."""
        situation = self._begin(now)
        witness = situation.witness
        if witness is not None:
            witness.answer(answer, now)
            if situation.role is Role.ACTIVE and not witness.is_member:
                self._moves.stand_down()
            self._use_right()
        return self._moves.flush()

    def leave(self, now: float) -> list[Action]:
        """End: hand the right over where somebody can take it, and never send again.

        While the heir makes itself ready this router goes on; so it does while it waits to hear of one.
        """
        situation = self._begin(now)
        if situation.role in ENDING or situation.leave_by < math.inf:
            return self._moves.flush()
        is_awaited = situation.role is Role.ACTIVE and len(situation.peers) > 0
        situation.leave_by = now + self._timing.yielding if is_awaited else now
        self._leave_in_time()
        return self._moves.flush()

    def has_heir(self, now: float) -> bool:
        """Say whether nothing is lost if this router leaves now."""
        self.situation.now = now
        return self.role is not Role.ACTIVE or self.situation.heir() is not None

    def fence_failed(self, now: float) -> list[Action]:
        """Take in that the kernel did not do what was asked: nothing that was decided since holds."""
        situation = self._begin(now)
        if situation.role is Role.ACTIVE:
            self._moves.stand_down()
        situation.questions.clear()
        if situation.witness is not None:
            situation.witness.lose_right()
        self._moves.wait_until(now + self._timing.listen)
        return self._moves.flush()

    def end(self, now: float) -> list[Action]:
        """Say the last word; no promise of this router is needed any more, or none can be waited for."""
        if self._begin(now).role is Role.LEAVING:
            self._moves.become(Role.GONE)
            self._moves.speak()
        return self._moves.flush()

    def is_ready(self, now: float) -> bool:
        """Say whether the shell shall stay prepared for a take-over."""
        self.situation.now = now
        return self.situation.is_ready()

    def is_needed(self, now: float) -> bool:
        """Say whether a leaving router should stay a moment longer, because others count on its promises."""
        self.situation.now = now
        return self.situation.is_needed()

    # Leaving

    def _leave_in_time(self) -> None:
        """Ask the heir to make itself ready, and leave once it is, or the time is up."""
        situation = self.situation
        if situation.role in ENDING:
            return
        heir = situation.heir() if situation.role is Role.ACTIVE else None
        is_ready = heir is not None and heir.last.ready and heir.last.sender == situation.asked_heir
        if situation.role is not Role.ACTIVE or is_ready or situation.now >= situation.leave_by:
            self._leave(heir)
        elif heir is not None and heir.last.sender != situation.asked_heir:
            situation.asked_heir = heir.last.sender
            self._moves.speak()

    def _leave(self, heir: Peer | None) -> None:
        if self.role is Role.ACTIVE:
            self._moves.close()
        self._moves.become(Role.LEAVING)
        if heir is None or not self._moves.grant(heir):
            self._moves.speak()

    # Time and roles

    def _begin(self, now: float) -> Situation:
        situation = self.situation
        situation.now = now
        if now >= situation.deadline and situation.role is Role.ACTIVE:
            self._moves.stand_down()
        return situation

    def _change_role(self) -> None:
        situation = self.situation
        role = situation.role
        if role is Role.LISTENING and situation.is_free and situation.now >= situation.listen_until:
            self._moves.become(Role.STANDBY)
            role = Role.STANDBY
        if role is Role.STANDBY:
            if situation.may_claim():
                self._moves.become(Role.CLAIMING)
                if situation.witness is not None:
                    situation.witness.fresh = False
        elif role is Role.CLAIMING:
            if not situation.may_claim():
                self._moves.step_back()
            elif situation.now - situation.since > self._timing.attempt and not situation.has_won():
                # Let another one try; whoever hears nobody, or cannot reach the witness, would block it.
                self._moves.step_back()
                situation.failed_until = situation.now + 3 * self._timing.attempt
                situation.not_before = situation.now + 2 * self._timing.promise

    # The right to send

    def _use_right(self) -> None:
        """Open the gate, or keep it open, where there is a right to."""
        situation = self.situation
        if situation.role is Role.ACTIVE:
            slot, until = right(situation)
            if until > situation.deadline:
                self._moves.approve(slot, until)
        elif situation.role is Role.CLAIMING:
            slot, until = right(situation)
            if until > situation.now >= situation.may_open:
                self._moves.open(slot, until)

    # Promises and grants

    def _meet_active(self, peer: Peer) -> None:
        situation, last = self.situation, peer.last
        if situation.witness is not None and last.term > situation.witness.term:
            situation.witness.fresh = False
        if situation.role is Role.ACTIVE:
            if (last.term, last.epoch, last.sender) < (situation.term, situation.epoch, self.me):
                self._moves.speak()  # it stands down when it hears this
                return
            self._moves.stand_down()
        elif situation.role is Role.CLAIMING and not situation.has_won():
            self._moves.step_back()
        if not (situation.role is Role.CLAIMING and situation.has_won()):
            if last.heir == self.me and situation.role is Role.STANDBY:
                self._moves.prepare()
            self._moves.promise(peer)

    def _meet_claimer(self, peer: Peer) -> None:
        situation = self.situation
        if situation.role is Role.ACTIVE or not situation.counts(peer.last.sender):
            return
        if situation.role is Role.CLAIMING:
            is_less = (peer.last.able, peer.last.sender) < (situation.is_able(), self.me)
            if is_less or situation.has_won():
                return
            self._moves.step_back()
        self._moves.promise(peer)

    def _step_aside(self) -> None:
        """Hand over to one that can do the job, where this router cannot."""
        situation = self.situation
        if situation.role is not Role.ACTIVE or situation.gateway.is_heard(situation.now):
            return
        heir = situation.heir()
        if heir is not None and heir.last.able:
            self._moves.stand_down()
            self._moves.grant(heir)

    # The witness

    def _consult(self, witness: Witness) -> None:
        situation = self.situation
        if not witness.may_ask(situation.now):
            return
        is_due = situation.now - witness.checked >= self._timing.poll
        if not witness.fresh:
            if is_due or membership.is_urgent(situation, witness):
                self._moves.read(witness)
            return
        if witness.is_alone and situation.role is Role.ACTIVE and self._share(witness):
            return
        wanted = membership.wanted(situation, witness)
        if wanted is not None:
            self._moves.write(witness, wanted)
        elif is_due and not witness.is_member:
            self._moves.read(witness)

    def _share(self, witness: Witness) -> bool:
        """Give the right of the only member up where it is of no use, or share it with one that stands by."""
        situation = self.situation
        if not situation.gateway.is_heard(situation.now):
            self._moves.stand_down()
            self._moves.write(witness, frozenset())
            return True
        partner = membership.new_partner(situation)
        if partner is None:
            return False
        # Without the right of the only member, the one by promises has to hold already.
        self._moves.approve(*situation.questions.until(partner.promised))
        self._moves.write(witness, frozenset({self.me, partner.last.sender}))
        return True
