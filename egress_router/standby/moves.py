"""The single moves of the pair protocol: each changes the situation, and says what is to be done. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from egress_router.standby.actions import Approve, Arm, Close, Message, Open, Prepare, Probe, Seek, Send
from egress_router.standby.role import EAGER, SUCCEEDING, Role, moved

if TYPE_CHECKING:
    from egress_router.standby.actions import Action, Members
    from egress_router.standby.peers import Peer
    from egress_router.standby.situation import Situation
    from egress_router.standby.witness import Witness


class Moves:
    """What a router can do; when it does it is for `Machine` to decide."""

    def __init__(self, situation: Situation) -> None:
        self._situation = situation
        self._timing = situation.timing
        self._sent = -math.inf
        self._probed = -math.inf
        self._out: list[Action] = []

    def flush(self) -> list[Action]:
        """Return what the shell has to do now, in this order."""
        done = self._out
        if done:
            self._out = []
        return done

    def become(self, role: Role) -> None:
        """Change the role."""
        situation = self._situation
        situation.role = moved(situation.role, role)
        situation.since = situation.now

    def wait_until(self, when: float) -> None:
        """Do not open the gate before."""
        self._situation.not_before = max(self._situation.not_before, when)

    # Speaking

    def speak_in_time(self) -> None:
        """Send a message and ask the gateway, where it is time to."""
        situation, beat = self._situation, self._timing.beat
        now, role = situation.now, situation.role
        if role is Role.GONE:
            return
        waited = now - self._sent
        if waited >= 2 * beat or (waited >= beat and role in EAGER):
            self.speak()
        waited = now - self._probed
        if waited >= 4 * beat or (waited >= beat and situation.needs_gateway()):
            self._probed = now
            self._out.append(Probe(situation.questions.last))
            if role is Role.CLAIMING:
                self._out.append(Seek())

    def speak(self, grant_to: int = 0, grant_seq: int = 0) -> None:
        """Send a message; it is a question, too, so the kernel's timer for it starts before."""
        situation, promise = self._situation, self._situation.promise
        slot = self._arm(self._timing.lease)
        is_promising = promise.is_running(situation.now)
        self._sent = situation.now
        message = Message(
            situation.me,
            slot,
            situation.role,
            situation.is_able(),
            situation.epoch,
            situation.term,
            promise.to if is_promising else 0,
            promise.seq if is_promising else 0,
            grant_to,
            grant_seq,
            situation.witness.partner if situation.witness is not None else 0,
            situation.asked_heir if situation.role is Role.ACTIVE else 0,
            situation.is_ready(),
        )
        self._out.append(Send(message))

    def read(self, witness: Witness) -> None:
        """Ask the witness what it holds."""
        self._out.append(witness.read(self._situation.now))

    def write(self, witness: Witness, members: Members) -> None:
        """Ask the witness to hold these members; for a right of its own a timer starts before."""
        slot = self._arm(self._timing.alone) if members == witness.alone else 0
        self._out.append(witness.write(members, slot, self._situation.now))

    def _arm(self, seconds: float) -> int:
        slot = self._situation.questions.add(self._situation.now)
        self._out.append(Arm(slot, seconds))
        return slot

    # The gate

    def approve(self, slot: int, until: float) -> None:
        """Keep the gate open."""
        self._situation.deadline = until
        self._out.append(Approve(slot))

    def open(self, slot: int, until: float) -> None:
        """Become active."""
        self.become(Role.ACTIVE)
        self._situation.epoch += 1
        self._situation.deadline = until
        self._out.append(Open(slot))
        self.speak()

    def close(self) -> None:
        """Close the gate; what was asked before gives no right any more."""
        situation = self._situation
        situation.right_asked = situation.deadline - self._timing.lease
        situation.deadline = -math.inf
        situation.questions.revoke()
        if situation.witness is not None:
            situation.witness.lose_right()
        self._out.append(Close())

    def stand_down(self) -> None:
        """Give up; whoever lost the right must listen before it may have it again."""
        self.close()
        self.become(Role.STANDBY)
        self.wait_until(self._situation.now + self._timing.promise)

    def step_back(self) -> None:
        """Claim no more; what was asked for the claim is void, which the next message says."""
        self._situation.questions.revoke()
        self.become(Role.STANDBY)

    # Promises and grants

    def prepare(self) -> None:
        """Make ready for a grant, so that between two open gates there is no more than a message."""
        situation = self._situation
        if not situation.is_ready():
            self._out.append(Prepare())
        situation.ready_until = situation.now + self._timing.ready

    def promise(self, peer: Peer) -> None:
        """Answer with a promise; one promises to one at a time, and to nobody whom it tries to leave out."""
        situation = self._situation
        if not situation.promise.allows(peer.last.sender, situation.now):
            return
        if situation.witness is not None and peer.last.term < situation.witness.floor:
            return
        situation.promise.bind(peer.last, situation.now)
        self.speak()

    def grant(self, heir: Peer) -> bool:
        """Let another one open its gate; ours is closed, and stays so for as long as its gate may be open.

        Says whether it could. Without a witness others wait only for as long as this router had the right
        itself. So the question that is granted is older than the one that gave it.
        """
        situation = self._situation
        is_bounded = situation.witness is None
        slot = heir.asked_before(situation.right_asked) if is_bounded else heir.last.seq
        if not slot or not situation.promise.allows(heir.last.sender, situation.now):
            return False
        situation.granted_to = heir.last.sender
        situation.promise.bind(heir.last, situation.now)
        self.speak(heir.last.sender, slot)
        return True

    def accept(self, message: Message) -> None:
        """Take over by a grant, if it came while our question's timer runs."""
        situation = self._situation
        slot, until = situation.questions.until(message.grant_seq)
        if situation.role not in SUCCEEDING or until <= situation.now:
            return
        if not situation.promise.allows(message.sender, situation.now):
            return
        witness = situation.witness
        if witness is not None:
            if message.term < witness.floor:
                return  # this router knows of a later membership, or tried to make one
            if message.term != witness.term or witness.partner != message.sender:
                witness.adopt(frozenset({situation.me, message.sender}), message.term)
        peer = situation.peers.get(message.sender)
        if peer is not None:
            peer.promised = max(peer.promised, message.grant_seq)
        self.open(slot, until)
