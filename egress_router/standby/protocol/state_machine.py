"""The pair protocol: messages, answers and times in, commands out. Pure.

The lease is never only what this router believes. It is an answer to a numbered request. The kernel's timer
of the request was started before the request was sent, and what the answer permits ends with that timer,
however late it is acted upon. docs/decisions/standby.md says why two routers never have the lease at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from egress_router.standby.protocol import membership
from egress_router.standby.protocol.lease import current_lease
from egress_router.standby.protocol.operations import Operations
from egress_router.standby.protocol.role import ENDING, NEEDS_ACKS, Role
from egress_router.standby.protocol.state import State
from egress_router.standby.protocol.timing import DEFAULT, Timing

if TYPE_CHECKING:
    from egress_router.standby.protocol.arbiter import Arbiter
    from egress_router.standby.protocol.commands import ArbiterAnswer, Command, Message
    from egress_router.standby.protocol.peers import Peer, PeerTable


class StateMachine:
    """One router's view of its group; every method returns what the shell has to do, in this order.

    The shell reads the clock after it received what it passes in: the hold-off begins then.
    """

    def __init__(self, me: int, now: float, *, has_arbiter: bool, timing: Timing = DEFAULT) -> None:
        self.me = me  # the number of this run of this router
        self.state = State(me, now, timing, has_arbiter=has_arbiter)
        self._timing = timing
        self._operations = Operations(self.state)
        self._ticked = now

    @property
    def role(self) -> Role:
        """The current role of this router."""
        return self.state.role

    @property
    def since(self) -> float:
        """When this role began."""
        return self.state.since

    @property
    def peers(self) -> PeerTable:
        """The other routers that it knows of."""
        return self.state.peers

    @property
    def arbiter(self) -> Arbiter | None:
        """What it knows of the arbiter, if there is one."""
        return self.state.arbiter

    # Events

    def tick(self, now: float) -> list[Command]:
        """Do what is due; to be called about every half heartbeat."""
        state = self._begin(now)
        stood_still = now - self._ticked
        if stood_still > 2 * self._timing.heartbeat:
            state.peers.discount_silence(stood_still, now)
        self._ticked = now
        state.peers.forget(now)
        if state.leave_by < math.inf:
            self._leave_in_time()
        self._change_role()
        self._step_aside()
        if state.arbiter is not None and state.role is not Role.GONE:
            membership.consult(state, state.arbiter, self._operations)
        self._use_lease()
        self._operations.heartbeat_if_due()
        return self._operations.take_commands()

    def address_free(self, now: float) -> list[Command]:
        """Process that no station outside the group has one of the addresses (RFC 5227)."""
        self._begin(now).is_address_free = True
        return self._operations.take_commands()

    def address_answered(self, now: float) -> list[Command]:
        """Process that a station answers for one of the addresses: its gate is open, whatever it says."""
        self._begin(now)
        self._operations.wait_until(now + 3 * self._timing.heartbeat)
        return self._operations.take_commands()

    def gateway_answered(self, request: int, now: float) -> list[Command]:
        """Process that the gateway answered `request`."""
        self._begin(now).gateway.answered(request, now)
        self._use_lease()
        return self._operations.take_commands()

    def link_lost(self, now: float) -> list[Command]:
        """Process that the interface has no carrier: nothing can be sent, so another router should send."""
        self._begin(now).gateway.lost()
        self._step_aside()
        return self._operations.take_commands()

    def message_received(self, message: Message, now: float) -> list[Command]:
        """Process a message of another router."""
        state = self.state
        if message.sender == self.me or state.role is Role.GONE:
            return []
        self._begin(now)
        peer = state.peers.hear(message, now)
        if peer is None:
            return self._operations.take_commands()
        state.epoch = max(state.epoch, message.epoch)
        if message.sender == state.hold_off.to and message.role not in NEEDS_ACKS:
            state.hold_off.follow(message, self.me)
        if message.ack_to == self.me:
            peer.acked = max(peer.acked, message.ack_seq)
        if message.role is Role.GONE:
            state.peers.drop(message.sender)
        elif message.hand_over_to == self.me:
            self._operations.accept_hand_over(message)
        elif message.role is Role.ACTIVE:
            self._handle_active(peer)
        elif message.role is Role.CLAIMING:
            self._handle_claimer(peer)
        elif state.role is Role.LEAVING and message.sender == state.handed_over_to:
            self._operations.hand_over(peer)  # it has not heard of the hand-over, or that was lost
        self._use_lease()
        if state.leave_by < math.inf:
            self._leave_in_time()
        return self._operations.take_commands()

    def arbiter_answered(self, answer: ArbiterAnswer, now: float) -> list[Command]:
        """Process an answer of the arbiter."""
        state = self._begin(now)
        arbiter = state.arbiter
        if arbiter is not None:
            arbiter.answer(answer, now)
            if state.role is Role.ACTIVE and not arbiter.is_member:
                self._operations.step_down()
            self._use_lease()
        return self._operations.take_commands()

    def leave(self, now: float) -> list[Command]:
        """Begin to leave: hand the lease over if there is a successor, and never send again.

        This router goes on until its successor is ready, and while it waits to hear of one, in all for at
        most `successor_wait`.
        """
        state = self._begin(now)
        if state.role in ENDING or state.leave_by < math.inf:
            return self._operations.take_commands()
        is_awaited = state.role is Role.ACTIVE and len(state.peers) > 0
        state.leave_by = now + self._timing.successor_wait if is_awaited else now
        self._leave_in_time()
        return self._operations.take_commands()

    def has_successor(self, now: float) -> bool:
        """Return whether this router can leave now without a gap: it is not active, or has a successor."""
        self.state.now = now
        return self.role is not Role.ACTIVE or self.state.successor() is not None

    def fence_failed(self, now: float) -> list[Command]:
        """Process that the kernel did not execute a command: what was decided since then is void."""
        state = self._begin(now)
        if state.role is Role.ACTIVE:
            self._operations.step_down()
        state.requests.clear()
        if state.arbiter is not None:
            state.arbiter.lose_lease()
        self._operations.wait_until(now + self._timing.listen)
        return self._operations.take_commands()

    def end(self, now: float) -> list[Command]:
        """Send the last message: nobody needs our acknowledgements any more, or the time is up."""
        if self._begin(now).role is Role.LEAVING:
            self._operations.become(Role.GONE)
            self._operations.send_heartbeat()
        return self._operations.take_commands()

    def is_ready(self, now: float) -> bool:
        """Return whether the shell has to stay prepared for a take-over."""
        self.state.now = now
        return self.state.is_ready()

    def is_needed(self, now: float) -> bool:
        """Return whether a leaving router should stay longer: others need its acknowledgements."""
        self.state.now = now
        return self.state.is_needed()

    # Leaving

    def _leave_in_time(self) -> None:
        """Ask the successor to get ready, and leave once it is, or the time is up."""
        state = self.state
        if state.role in ENDING:
            return
        successor = state.successor() if state.role is Role.ACTIVE else None
        is_ready = (
            successor is not None and successor.last.ready and successor.last.sender == state.asked_successor
        )
        if state.role is not Role.ACTIVE or is_ready or state.now >= state.leave_by:
            self._leave(successor)
        elif successor is not None and successor.last.sender != state.asked_successor:
            state.asked_successor = successor.last.sender
            self._operations.send_heartbeat()

    def _leave(self, successor: Peer | None) -> None:
        if self.role is Role.ACTIVE:
            self._operations.close_gate()
        self._operations.become(Role.LEAVING)
        if successor is None or not self._operations.hand_over(successor):
            self._operations.send_heartbeat()

    # Time and roles

    def _begin(self, now: float) -> State:
        state = self.state
        state.now = now
        if now >= state.deadline and state.role is Role.ACTIVE:
            self._operations.step_down()
        return state

    def _change_role(self) -> None:
        state = self.state
        role = state.role
        if role is Role.LISTENING and state.is_address_free and state.now >= state.listen_until:
            self._operations.become(Role.STANDBY)
            role = Role.STANDBY
        if role is Role.STANDBY:
            if state.may_claim():
                self._operations.become(Role.CLAIMING)
                if state.arbiter is not None:
                    state.arbiter.fresh = False
        elif role is Role.CLAIMING:
            if not state.may_claim():
                self._operations.withdraw_claim()
            elif state.now - state.since > self._timing.attempt and not state.is_sole_member():
                # Let another router try: one that hears nobody, or cannot reach the arbiter, would block it.
                self._operations.withdraw_claim()
                state.failed_until = state.now + 3 * self._timing.attempt
                state.not_before = state.now + 2 * self._timing.hold_off

    # The lease

    def _use_lease(self) -> None:
        """Open the gate, or keep it open, if there is a lease."""
        state = self.state
        if state.role is Role.ACTIVE:
            request, until = current_lease(state)
            if until > state.deadline:
                self._operations.extend_lease(request, until)
        elif state.role is Role.CLAIMING:
            request, until = current_lease(state)
            if until > state.now >= state.may_open:
                self._operations.take_over(request, until)

    # Acknowledgements and hand-overs

    def _handle_active(self, peer: Peer) -> None:
        state, last = self.state, peer.last
        if state.arbiter is not None and last.term > state.arbiter.term:
            state.arbiter.fresh = False
        if state.role is Role.ACTIVE:
            if (last.term, last.epoch, last.sender) < (state.term, state.epoch, self.me):
                self._operations.send_heartbeat()  # the other one is no longer active once it hears this
                return
            self._operations.step_down()
        elif state.role is Role.CLAIMING and not state.is_sole_member():
            self._operations.withdraw_claim()
        if not (state.role is Role.CLAIMING and state.is_sole_member()):
            if last.successor == self.me and state.role is Role.STANDBY:
                self._operations.prepare()
            self._operations.acknowledge(peer)

    def _handle_claimer(self, peer: Peer) -> None:
        state = self.state
        if state.role is Role.ACTIVE or not state.may_hold_lease(peer.last.sender):
            return
        if state.role is Role.CLAIMING:
            is_worse = (peer.last.able, peer.last.sender) < (state.is_able(), self.me)
            if is_worse or state.is_sole_member():
                return
            self._operations.withdraw_claim()
        self._operations.acknowledge(peer)

    def _step_aside(self) -> None:
        """Hand over to a router that reaches the gateway, if this one does not."""
        state = self.state
        if state.role is not Role.ACTIVE or state.gateway.is_heard(state.now):
            return
        successor = state.successor()
        if successor is not None and successor.last.able:
            self._operations.step_down()
            self._operations.hand_over(successor)
