"""The pair protocol: messages, answers and times in, actions out. Pure.

The right to send is never a belief of this router alone. It is an answer to a numbered question: the kernel's
timer for the question was started before the question was asked, and what the answer permits ends with that
timer, whenever it is acted upon. docs/decisions/standby.md says why two routers never have it at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from egress_router.standby.actions import Approve, Arm, Close, Message, Open, Probe, Seek, Send
from egress_router.standby.peers import Peers
from egress_router.standby.role import Role, moved
from egress_router.standby.timing import DEFAULT, Timing
from egress_router.standby.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.standby.actions import Action, Answer, Members
    from egress_router.standby.peers import Peer

_EAGER = frozenset({Role.ACTIVE, Role.CLAIMING})
_KEPT = 256  # questions whose time is remembered: more than are asked during a lease


class Machine:
    """One router's view of its group; every method returns what the shell has to do, in this order.

    The shell reads the clock after it received what it passes in: a promise counts from then on.
    """

    def __init__(self, me: int, now: float, *, has_witness: bool, timing: Timing = DEFAULT) -> None:
        self.me = me
        self.role = Role.LISTENING
        self.peers = Peers(timing.silent, timing.forget)
        self.witness = Witness(me, timing) if has_witness else None
        self.epoch = 0
        self.deadline = -math.inf  # until when the gate is open, as far as this router decided
        self.since = now
        self._timing = timing
        self._now = now
        self._ticked = now
        self._sent = -math.inf
        self._probed = -math.inf
        self._failed_until = -math.inf
        self._seq = 0
        self._asked: dict[int, float] = {}
        self._void = 0  # the last question whose answers give no right any more
        self._promised_to = 0
        self._promised_seq = 0
        self._promised_until = -math.inf
        self._listen_until = now + timing.listen
        self._not_before = now + timing.listen
        self._is_free = False
        self._granted_to = 0
        self._gateway_slot = 0  # the last question that the gateway answered
        self._gateway_known = False  # whether it ever answered one
        self._steady_from = -math.inf  # a cable that was just plugged in again proves no silence
        self._out: list[Action] = []

    # What happens to a router

    def tick(self, now: float) -> list[Action]:
        """Let time pass; to be called every half beat or so."""
        self._begin(now)
        stood_still = now - self._ticked
        if stood_still > 2 * self._timing.beat:
            self.peers.excuse(stood_still, now)
        self._ticked = now
        self.peers.forget(now)
        self._change_role()
        self._step_aside()
        if self.witness is not None and self.role is not Role.GONE:
            self._consult(self.witness)
        self._use_right()
        self._speak_in_time()
        return self._flush()

    def _change_role(self) -> None:
        if self.role is Role.LISTENING and self._is_free and self._now >= self._listen_until:
            self._become(Role.STANDBY)
        if self.role is Role.STANDBY and self._may_claim():
            self._become(Role.CLAIMING)
            if self.witness is not None:
                self.witness.fresh = False
        elif self.role is Role.CLAIMING:
            if not self._may_claim():
                self._step_back()
            elif self._now - self.since > self._timing.attempt and not self._has_won():
                # Let another one try; whoever hears nobody, or cannot reach the witness, would block it.
                self._step_back()
                self._failed_until = self._now + 3 * self._timing.attempt
                self._not_before = self._now + 2 * self._timing.promise

    def free(self, now: float) -> list[Action]:
        """Take in that no station outside the group has one of the addresses (RFC 5227)."""
        self._begin(now)
        self._is_free = True
        return self._flush()

    def answered(self, now: float) -> list[Action]:
        """Take in that some station answers for one of the addresses: its gate is open, whatever it says."""
        self._begin(now)
        self._not_before = max(self._not_before, now + 3 * self._timing.beat)
        return self._flush()

    def gateway(self, slot: int, now: float) -> list[Action]:
        """Take in that the gateway answered what was asked with question `slot`."""
        self._begin(now)
        gap = self._asked.get(slot, now) - self._asked.get(self._gateway_slot, -math.inf)
        if self._gateway_known and gap > self._timing.gap:
            self._steady_from = now + self._timing.promise
        self._gateway_known = True
        self._gateway_slot = max(self._gateway_slot, slot)
        self._use_right()
        return self._flush()

    def carrier_lost(self, now: float) -> list[Action]:
        """Take in that the interface has no carrier: nothing can be sent, so another one should."""
        self._begin(now)
        self._gateway_known, self._gateway_slot = True, 0
        self._step_aside()
        return self._flush()

    def heard(self, message: Message, now: float) -> list[Action]:
        """Take a message of another router in."""
        if message.sender == self.me or self.role is Role.GONE:
            return []
        self._begin(now)
        peer = self.peers.hear(message, now)
        if peer is None:
            return self._flush()
        self.epoch = max(self.epoch, message.epoch)
        if message.sender == self._promised_to and message.role not in {Role.ACTIVE, Role.CLAIMING}:
            self._promised_until = -math.inf  # its gate is closed, and what it asked before is void
        if message.promise_to == self.me:
            peer.promised = max(peer.promised, message.promise_seq)
        if message.role is Role.GONE:
            self.peers.drop(message.sender)
        elif message.grant_to == self.me:
            self._accept(message)
        elif message.role is Role.ACTIVE:
            self._meet_active(peer)
        elif message.role is Role.CLAIMING:
            self._meet_claimer(peer)
        elif self.role is Role.LEAVING and message.sender == self._granted_to:
            self._grant(peer)  # it spoke before it heard of the grant, or the grant was lost
        self._use_right()
        return self._flush()

    def witnessed(self, answer: Answer, now: float) -> list[Action]:
        """Take an answer of the witness in."""
        self._begin(now)
        if self.witness is not None:
            self.witness.answer(answer, now)
            if self.role is Role.ACTIVE and not self.witness.is_member():
                self._stand_down()
            self._use_right()
        return self._flush()

    def leave(self, now: float) -> list[Action]:
        """End: hand the right over where somebody can take it, and never send again."""
        self._begin(now)
        if self.role in {Role.LEAVING, Role.GONE}:
            return self._flush()
        was_active = self.role is Role.ACTIVE
        heir = self._heir() if was_active else None
        if was_active:
            self._close()
        self._become(Role.LEAVING)
        if heir is not None:
            self._grant(heir)
        else:
            self._speak()
        return self._flush()

    def has_heir(self, now: float) -> bool:
        """Say whether nothing is lost if this router leaves now."""
        self._now = now
        return self.role is not Role.ACTIVE or self._heir() is not None

    def fence_failed(self, now: float) -> list[Action]:
        """Take in that the kernel did not do what was asked: nothing that was decided since holds."""
        self._begin(now)
        if self.role is Role.ACTIVE:
            self._stand_down()
        self._asked.clear()
        self._void = self._seq
        if self.witness is not None:
            self.witness.alone_slot, self.witness.alone_until = 0, -math.inf
        self._not_before = max(self._not_before, now + self._timing.listen)
        return self._flush()

    def end(self, now: float) -> list[Action]:
        """Say the last word; no promise of this router is needed any more, or none can be waited for."""
        self._begin(now)
        if self.role is Role.LEAVING:
            self._become(Role.GONE)
            self._speak()
        return self._flush()

    def is_needed(self, now: float) -> bool:
        """Say whether a leaving router should stay a moment longer, because others count on its promises."""
        if self.role is not Role.LEAVING:
            return False
        if self.witness is not None and self._is_last(self.witness):
            return True  # until the witness names it no longer
        if self._granted_to:
            heir = self.peers.get(self._granted_to)
            if heir is None or not self.peers.is_live(self._granted_to, now):
                return False
            if heir.last.role is not Role.ACTIVE:
                return True
        active = self.peers.active(now)
        return active is not None and active.last.leans_on == self.me

    # Time

    def _begin(self, now: float) -> None:
        self._now = now
        if self.role is Role.ACTIVE and now >= self.deadline:
            self._stand_down()

    def _flush(self) -> list[Action]:
        done, self._out = self._out, []
        return done

    def _become(self, role: Role) -> None:
        self.role = moved(self.role, role)
        self.since = self._now

    # Speaking

    def _speak_in_time(self) -> None:
        if self.role is Role.GONE:
            return
        beat = self._timing.beat
        if self._now - self._sent >= (beat if self.role in _EAGER else 2 * beat):
            self._speak()
        if self._now - self._probed >= (beat if self._needs_gateway() else 4 * beat):
            self._probed = self._now
            self._out.append(Probe(self._seq))
            if self.role is Role.CLAIMING:
                self._out.append(Seek())

    def _needs_gateway(self) -> bool:
        """Say whether the gateway's answers are part of the right to send, or will be."""
        if self.role is Role.ACTIVE and self.witness is not None:
            return not self.peers.is_live(self.witness.partner(), self._now)
        return self.role is Role.CLAIMING or (
            self.role is Role.ACTIVE and len(self.peers.live(self._now)) < len(self.peers)
        )

    def _speak(self, grant_to: int = 0, grant_seq: int = 0) -> None:
        """Send a message; it is a question, too, so the kernel's timer for it starts before."""
        slot = self._arm(self._timing.lease)
        promising = self._now < self._promised_until
        self._sent = self._now
        leans_on = self.witness.partner() if self.witness is not None else 0
        self._out.append(
            Send(
                Message(
                    self.me,
                    slot,
                    self.role,
                    self._is_able(),
                    self.epoch,
                    self._term(),
                    self._promised_to if promising else 0,
                    self._promised_seq if promising else 0,
                    grant_to,
                    grant_seq,
                    leans_on,
                )
            )
        )

    def _term(self) -> int:
        return self.witness.term if self.witness is not None else 0

    def _arm(self, seconds: float) -> int:
        self._seq += 1
        self._asked[self._seq] = self._now
        if len(self._asked) > _KEPT:
            del self._asked[next(iter(self._asked))]
        self._out.append(Arm(self._seq, seconds))
        return self._seq

    def _is_able(self) -> bool:
        """Say whether others may count on this router: it hears the gateway, and has not just failed."""
        return self._now >= self._failed_until and self._hears_gateway()

    def _hears_gateway(self) -> bool:
        """Say whether the gateway answers; of one that never did, nothing can be concluded."""
        since = self._now - 16 * self._timing.beat
        return not self._gateway_known or self._asked.get(self._gateway_slot, -math.inf) > since

    # The right to send

    def _use_right(self) -> None:
        """Open the gate, or keep it open, where there is a right to."""
        if self.role is Role.ACTIVE:
            slot, until = self._right()
            if until > self.deadline:
                self._approve(slot, until)
        elif self.role is Role.CLAIMING:
            slot, until = self._right()
            if until > self._now >= max(self._promised_until, self._not_before):
                self._open(slot, until)

    def _right(self) -> tuple[int, float]:
        """Return the question whose answers give the right to send, and until when."""
        if self.witness is None:
            return self._right_by_wire()
        if self.witness.members is None or self.me not in self.witness.members:
            return 0, -math.inf
        partner = self.witness.partner()
        if not partner:
            return self.witness.alone_slot, self.witness.alone_until
        slot, until = self._until(self._least_promise([partner]))
        # The timer may have started later than the question was decided on, by less than a lease.
        return (slot, until) if until + self._timing.lease <= self.witness.bound else (0, -math.inf)

    def _right_by_wire(self) -> tuple[int, float]:
        """Return the same without a witness.

        All that are heard have to promise. Where one is missing that did not say goodbye, the wire may be cut
        in two: then only the side of the gateway may go on.
        """
        slot = self._seq
        others = [peer.last.sender for peer in self.peers.live(self._now)]
        if others:
            slot = self._least_promise(others)
        missing = max((peer.heard for peer in self.peers if peer.last.sender not in others), default=None)
        if self._gateway_known and missing is not None:
            asked = self._asked.get(self._gateway_slot, -math.inf)
            if self._now < self._steady_from or asked < missing + self._timing.silent:
                return 0, -math.inf  # an answer from before the cut, if there is one, proves nothing
            slot = min(slot, self._gateway_slot)
        return self._until(slot)

    def _least_promise(self, others: list[int]) -> int:
        least = min(peer.promised if (peer := self.peers.get(each)) else 0 for each in others)
        return least if least > self._void else 0

    def _until(self, slot: int) -> tuple[int, float]:
        return slot, self._asked.get(slot, -math.inf) + self._timing.lease

    def _approve(self, slot: int, until: float) -> None:
        self.deadline = until
        self._out.append(Approve(slot))

    def _open(self, slot: int, until: float) -> None:
        self._become(Role.ACTIVE)
        self.epoch += 1
        self.deadline = until
        self._out.append(Open(slot))
        self._speak()

    def _close(self) -> None:
        self.deadline = -math.inf
        self._void = self._seq
        if self.witness is not None:
            self.witness.alone_slot, self.witness.alone_until = 0, -math.inf
        self._out.append(Close())

    def _stand_down(self) -> None:
        """Give up; whoever lost the right must listen before it may have it again."""
        self._close()
        self._become(Role.STANDBY)
        self._not_before = max(self._not_before, self._now + self._timing.promise)

    def _step_back(self) -> None:
        """Claim no more; what was asked for the claim is void, which the next message says."""
        self._void = self._seq
        self._become(Role.STANDBY)

    def _may_claim(self) -> bool:
        """Say whether nobody else seems to be active, or about to be."""
        if not self._is_free or self._now < self._not_before - self._timing.promise:
            return False
        mine = (self._is_able(), self.me)
        for peer in self.peers.live(self._now):
            last = peer.last
            if last.role is Role.ACTIVE and not self._has_won():
                return False
            if last.promise_to not in {0, self.me} and self._counts(last.promise_to):
                return False
            if last.role is Role.CLAIMING and (last.able, last.sender) > mine and self._counts(last.sender):
                return False
        return True

    def _has_won(self) -> bool:
        """Say whether the witness names this router alone: what others say they are then ends by itself."""
        return self.witness is not None and self.witness.members == frozenset({self.me})

    def _counts(self, number: int) -> bool:
        """Say whether a router may have the right at all, as far as this one knows."""
        witness = self.witness
        return witness is None or not witness.is_member() or number in (witness.members or ())

    # Promises and grants

    def _meet_active(self, peer: Peer) -> None:
        last = peer.last
        if self.witness is not None and last.term > self.witness.term:
            self.witness.fresh = False
        if self.role is Role.ACTIVE:
            if (last.term, last.epoch, last.sender) < (self._term(), self.epoch, self.me):
                self._speak()  # it stands down when it hears this
                return
            self._stand_down()
        elif self.role is Role.CLAIMING and not self._has_won():
            self._step_back()
        if not (self.role is Role.CLAIMING and self._has_won()):
            self._promise(peer)

    def _meet_claimer(self, peer: Peer) -> None:
        if self.role is Role.ACTIVE or not self._counts(peer.last.sender):
            return
        if self.role is Role.CLAIMING:
            if (peer.last.able, peer.last.sender) < (self._is_able(), self.me) or self._has_won():
                return
            self._step_back()
        self._promise(peer)

    def _promise(self, peer: Peer) -> None:
        """Answer with a promise; one promises to one at a time, and to nobody whom it tries to leave out."""
        if self._now < self._promised_until and self._promised_to != peer.last.sender:
            return
        if self.witness is not None and peer.last.term < self.witness.floor:
            return
        self._bind_to(peer)
        self._speak()

    def _bind_to(self, peer: Peer) -> None:
        self._promised_to, self._promised_seq = peer.last.sender, peer.last.seq
        self._promised_until = self._now + self._timing.promise

    def _heir(self) -> Peer | None:
        """Choose who gets the right that this router gives up."""
        heirs = [peer for peer in self._candidates() if peer.last.role in {Role.STANDBY, Role.CLAIMING}]
        return max(heirs, key=lambda peer: (peer.last.able, peer.last.sender), default=None)

    def _candidates(self) -> Iterator[Peer]:
        witness = self.witness
        for peer in self.peers.live(self._now):
            # To the other member, unless this router has just tried to leave it out.
            if witness is None or (witness.partner() == peer.last.sender and witness.floor <= witness.term):
                yield peer

    def _grant(self, heir: Peer) -> None:
        """Let another one open its gate; ours is closed, and stays so for as long as its gate may be open."""
        if self._now < self._promised_until and self._promised_to != heir.last.sender:
            return
        self._granted_to = heir.last.sender
        self._bind_to(heir)
        self._speak(heir.last.sender, heir.last.seq)

    def _step_aside(self) -> None:
        """Hand over to one that can do the job, where this router cannot."""
        if self.role is not Role.ACTIVE or self._hears_gateway():
            return
        heir = self._heir()
        if heir is not None and heir.last.able:
            self._stand_down()
            self._grant(heir)

    def _accept(self, message: Message) -> None:
        """Take over by a grant, if it came while our question's timer runs."""
        slot, until = self._until(message.grant_seq)
        if self.role not in {Role.STANDBY, Role.CLAIMING} or until <= self._now:
            return
        if self._now < self._promised_until and self._promised_to != message.sender:
            return
        if self.witness is not None:
            if message.term < self.witness.floor:
                return  # this router knows of a later membership, or tried to make one
            if message.term != self.witness.term or self.witness.partner() != message.sender:
                self.witness.adopt(frozenset({self.me, message.sender}), message.term)
        peer = self.peers.get(message.sender)
        if peer is not None:
            peer.promised = max(peer.promised, message.grant_seq)
        self._open(slot, until)

    # The witness

    def _consult(self, witness: Witness) -> None:
        if not witness.may_ask(self._now):
            return
        if not witness.fresh:
            if self._is_urgent(witness) or self._now - witness.checked >= self._timing.poll:
                self._out.append(witness.read(self._now))
            return
        wanted = self._wanted(witness)
        if wanted is not None:
            slot = self._arm(self._timing.alone) if wanted == {self.me} else 0
            self._out.append(witness.write(wanted, slot, self._now))
        elif self._now - witness.checked >= self._timing.poll and not witness.is_member():
            self._out.append(witness.read(self._now))

    def _is_urgent(self, witness: Witness) -> bool:
        """Say whether the right to send depends on the witness now."""
        if self.role is Role.ACTIVE:
            return not self.peers.is_live(witness.partner(), self._now)
        return self.role in {Role.CLAIMING, Role.LEAVING}

    def _wanted(self, witness: Witness) -> Members | None:
        """Return what the witness should hold now; None where it need not be written."""
        if self.role is Role.ACTIVE:
            return self._wanted_active(witness)
        if self.role is Role.CLAIMING:
            return self._wanted_claiming(witness)
        if self.role is Role.LEAVING:
            is_free = self._now >= self._promised_until
            return frozenset() if is_free and self._is_last(witness) else None
        overdue = self._now - witness.since >= 1.4 * self._timing.refresh
        return witness.members if self.role is Role.STANDBY and witness.partner() and overdue else None

    def _is_last(self, witness: Witness) -> bool:
        """Say whether this leaving router may be the last member, so that others would wait for it."""
        if not witness.is_member():
            return False
        partner = self.peers.get(witness.partner())
        is_left = not self.peers.is_live(witness.partner(), self._now)
        return is_left or partner is None or partner.last.role is Role.LEAVING or not witness.fresh

    def _wanted_active(self, witness: Witness) -> Members | None:
        if witness.members == frozenset({self.me}):
            return self._wanted_alone(witness)
        partner_id = witness.partner()
        if not partner_id:
            return None
        peer = self.peers.get(partner_id)
        if peer is None or peer.last.role is Role.LEAVING:
            return frozenset({self.me})
        if not self.peers.is_live(partner_id, self._now):
            # A router that is cut off from gateway and partner alike leaves the right to the partner.
            return frozenset({self.me}) if self._is_connected(peer.heard) else None
        is_due = witness.in_doubt or self._now - witness.since >= self._timing.refresh
        return witness.members if is_due else None

    def _wanted_alone(self, witness: Witness) -> Members | None:
        if not self._hears_gateway():
            self._stand_down()
            return frozenset()
        partner = self._partner_to_be()
        if partner is not None:
            # Without the right of the only member, the one by promises has to hold already.
            self._approve(*self._until(partner.promised))
            return frozenset({self.me, partner.last.sender})
        is_due = not witness.alone_slot or self._now - witness.renewed >= self._timing.renew
        return frozenset({self.me}) if is_due else None

    def _is_connected(self, since: float) -> bool:
        """Say whether the gateway has answered a question from after `since`, if it ever answers any."""
        return not self._gateway_known or self._asked.get(self._gateway_slot, -math.inf) > since

    def _partner_to_be(self) -> Peer | None:
        """Return a standby one whose promise is so young that this router can lean on it from now on."""
        for peer in self.peers.live(self._now):
            _, until = self._until(peer.promised)
            if peer.last.role is Role.STANDBY and until > self._now + self._timing.lease / 2:
                return peer
        return None

    def _wanted_claiming(self, witness: Witness) -> Members | None:
        if not self._hears_gateway():
            return None
        alone = frozenset({self.me})
        may_open = max(self._promised_until, self._not_before)
        if witness.members == alone:
            return None if self._now < witness.alone_until - self._timing.lease else alone
        partner = witness.partner()
        if partner:
            peer = self.peers.get(partner)
            silent = not self.peers.is_live(partner, self._now) and (
                peer is None or self._is_connected(peer.heard)
            )
            return alone if silent and self._now >= may_open - self._timing.lead else None
        return alone if witness.is_stale(self._now) else None
