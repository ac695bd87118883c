"""The operations of the protocol: each changes the state, and adds the commands for it. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from egress_router.standby.protocol.commands import (
    CloseGate,
    ExtendLease,
    Message,
    PrepareTakeOver,
    ProbeAddresses,
    ProbeGateway,
    SendMessage,
    StartTimer,
    TakeOver,
)
from egress_router.standby.protocol.role import MAY_SUCCEED, NEEDS_ACKS, Role, transition

if TYPE_CHECKING:
    from egress_router.standby.protocol.arbiter import Arbiter
    from egress_router.standby.protocol.commands import Command, Members
    from egress_router.standby.protocol.peers import Peer
    from egress_router.standby.protocol.state import State


class Operations:
    """What a router can do; `StateMachine` decides when."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._timing = state.timing
        self._sent = -math.inf
        self._probed = -math.inf
        self._commands: list[Command] = []

    def take_commands(self) -> list[Command]:
        """Return what the shell has to do now, in this order."""
        commands = self._commands
        if commands:
            self._commands = []
        return commands

    def become(self, role: Role) -> None:
        """Change the role."""
        state = self._state
        state.role = transition(state.role, role)
        state.since = state.now

    def wait_until(self, when: float) -> None:
        """Do not open the gate before this time."""
        self._state.not_before = max(self._state.not_before, when)

    # Messages

    def heartbeat_if_due(self) -> None:
        """Send a message and ask the gateway, each if it is time to."""
        state, heartbeat = self._state, self._timing.heartbeat
        now, role = state.now, state.role
        if role is Role.GONE:
            return
        waited = now - self._sent
        if waited >= 2 * heartbeat or (waited >= heartbeat and role in NEEDS_ACKS):
            self.send_heartbeat()
        waited = now - self._probed
        if waited >= 4 * heartbeat or (waited >= heartbeat and state.needs_gateway()):
            self._probed = now
            self._commands.append(ProbeGateway(state.requests.last))
            if role is Role.CLAIMING:
                self._commands.append(ProbeAddresses())

    def send_heartbeat(self, hand_over_to: int = 0, hand_over_seq: int = 0) -> None:
        """Send a message. It is also a request for a lease, so the kernel's timer for it starts before."""
        state, hold_off = self._state, self._state.hold_off
        request = self._start_timer(self._timing.lease)
        is_holding_off = hold_off.is_running(state.now)
        self._sent = state.now
        message = Message(
            state.me,
            request,
            state.role,
            state.is_able(),
            state.epoch,
            state.term,
            hold_off.to if is_holding_off else 0,
            hold_off.seq if is_holding_off else 0,
            hand_over_to,
            hand_over_seq,
            state.arbiter.partner if state.arbiter is not None else 0,
            state.asked_successor if state.role is Role.ACTIVE else 0,
            state.is_ready(),
        )
        self._commands.append(SendMessage(message))

    def read(self, arbiter: Arbiter) -> None:
        """Read the arbiter."""
        self._commands.append(arbiter.read(self._state.now))

    def write(self, arbiter: Arbiter, members: Members) -> None:
        """Write these members to the arbiter; a timer starts before if the write gives a lease."""
        request = self._start_timer(self._timing.alone) if members == arbiter.alone else 0
        self._commands.append(arbiter.write(members, request, self._state.now))

    def _start_timer(self, seconds: float) -> int:
        request = self._state.requests.add(self._state.now)
        self._commands.append(StartTimer(request, seconds))
        return request

    # The gate

    def extend_lease(self, request: int, until: float) -> None:
        """Keep the gate open."""
        self._state.deadline = until
        self._commands.append(ExtendLease(request))

    def take_over(self, request: int, until: float) -> None:
        """Become active."""
        self.become(Role.ACTIVE)
        self._state.epoch += 1
        self._state.deadline = until
        self._commands.append(TakeOver(request))
        self.send_heartbeat()

    def close_gate(self) -> None:
        """Close the gate; older requests give no lease any more."""
        state = self._state
        state.lease_requested_at = state.deadline - self._timing.lease
        state.deadline = -math.inf
        state.requests.revoke()
        if state.arbiter is not None:
            state.arbiter.lose_lease()
        self._commands.append(CloseGate())

    def step_down(self) -> None:
        """Close the gate and stand by; a router that lost its lease must listen before it may get one."""
        self.close_gate()
        self.become(Role.STANDBY)
        self.wait_until(self._state.now + self._timing.hold_off)

    def withdraw_claim(self) -> None:
        """Stop claiming; its requests are void, and the next message says so by its role."""
        self._state.requests.revoke()
        self.become(Role.STANDBY)

    # Acknowledgements and hand-overs

    def prepare(self) -> None:
        """Get ready for a hand-over, so that no more than a message lies between two open gates."""
        state = self._state
        if not state.is_ready():
            self._commands.append(PrepareTakeOver())
        state.ready_until = state.now + self._timing.ready

    def acknowledge(self, peer: Peer) -> None:
        """Acknowledge, but only one router at a time, and none that this router tries to leave out."""
        state = self._state
        if not state.hold_off.allows(peer.last.sender, state.now):
            return
        if state.arbiter is not None and peer.last.term < state.arbiter.floor:
            return
        state.hold_off.start(peer.last, state.now)
        self.send_heartbeat()

    def hand_over(self, successor: Peer) -> bool:
        """Let another router open its gate; ours is closed, and stays closed while that one may be open.

        Returns whether it could. Without an arbiter, others wait no longer than our own lease could last.
        So the request that is answered is older than the one that gave this router its lease.
        """
        state = self._state
        is_bounded = state.arbiter is None
        request = successor.asked_before(state.lease_requested_at) if is_bounded else successor.last.seq
        if not request or not state.hold_off.allows(successor.last.sender, state.now):
            return False
        state.handed_over_to = successor.last.sender
        state.hold_off.start(successor.last, state.now)
        self.send_heartbeat(successor.last.sender, request)
        return True

    def accept_hand_over(self, message: Message) -> None:
        """Take over from another router, if the timer of our request still runs."""
        state = self._state
        request, until = state.requests.until(message.hand_over_seq)
        if state.role not in MAY_SUCCEED or until <= state.now:
            return
        if not state.hold_off.allows(message.sender, state.now):
            return
        arbiter = state.arbiter
        if arbiter is not None:
            if message.term < arbiter.floor:
                return  # this router knows of a later membership, or tried to make one
            if message.term != arbiter.term or arbiter.partner != message.sender:
                arbiter.adopt(frozenset({state.me, message.sender}), message.term)
        peer = state.peers.get(message.sender)
        if peer is not None:
            peer.acked = max(peer.acked, message.hand_over_seq)
        self.take_over(request, until)
