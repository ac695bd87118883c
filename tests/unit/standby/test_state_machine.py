"""What the simulation does not show by itself: single steps of the pair protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.standby.protocol.commands import (
    ArbiterAnswer,
    AskArbiter,
    CloseGate,
    ExtendLease,
    Message,
    PrepareTakeOver,
    SendMessage,
    StartTimer,
    TakeOver,
)
from egress_router.standby.protocol.role import Role
from egress_router.standby.protocol.state_machine import StateMachine
from egress_router.standby.protocol.timing import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.standby.protocol.commands import Command


def active_message(seq: int, *, sender: int = 9, **fields: int) -> Message:
    said = Message(sender, seq, Role.ACTIVE, True, 1, 0, 0, 0, 0, 0, 0)
    return said._replace(**fields)  # type: ignore[arg-type]


def standby_machine(now: float) -> StateMachine:
    """A router that has listened, beside an active one that speaks until `now`."""
    machine = StateMachine(1, now - 2.0, has_arbiter=False)
    machine.address_free(now - 1.0)
    for number in range(40):
        at = now - 1.0 + number * 0.025
        machine.message_received(active_message(number + 1), at)
        machine.tick(at)
    assert machine.role is Role.STANDBY
    return machine


def test_a_router_beside_an_active_one_is_standing_by_however_often_that_one_speaks_for_the_address() -> None:
    machine = StateMachine(1, 0.0, has_arbiter=False)
    machine.address_free(0.9)
    for number in range(120):
        now = number * 0.025
        machine.message_received(active_message(number + 1), now)
        machine.address_answered(now)
        machine.tick(now)
    assert machine.role is Role.STANDBY


def test_the_timer_of_a_request_is_started_before_it_is_sent() -> None:
    machine = StateMachine(1, 0.0, has_arbiter=False)
    commands = [each for number in range(10) for each in machine.tick(number * 0.05)]
    armed: set[int] = set()
    for command in commands:
        if isinstance(command, StartTimer):
            armed.add(command.request)
        elif isinstance(command, SendMessage):
            assert command.message.seq in armed
    assert armed


def test_the_hold_off_is_kept_after_silence() -> None:
    machine = standby_machine(100.0)
    machine.message_received(active_message(100), 100.0)
    now, opened = 100.0, None
    while opened is None:
        now += 0.025
        commands = machine.tick(now)
        commands += machine.gateway_answered(machine.state.requests.last, now)
        if any(isinstance(each, TakeOver) for each in commands):
            opened = now
    assert DEFAULT.hold_off <= opened - 100.0 < DEFAULT.hold_off + 0.1


def test_a_hand_over_opens_at_once_and_an_old_one_never() -> None:
    for late, role in ((0.0, Role.ACTIVE), (DEFAULT.lease, Role.STANDBY)):
        machine = standby_machine(100.0)
        (sent,) = (
            each.message
            for each in machine.message_received(active_message(100), 100.0)
            if isinstance(each, SendMessage)
        )
        hand_over = active_message(101, hand_over_to=1, hand_over_seq=sent.seq)._replace(role=Role.LEAVING)
        machine.message_received(hand_over, 100.0 + late)
        assert machine.role is role


def test_an_active_router_without_acknowledgements_closes_in_time() -> None:
    machine = standby_machine(100.0)
    (sent,) = (
        each.message
        for each in machine.message_received(active_message(100), 100.0)
        if isinstance(each, SendMessage)
    )
    machine.message_received(
        active_message(101, hand_over_to=1, hand_over_seq=sent.seq)._replace(role=Role.LEAVING), 100.01
    )
    assert machine.role is Role.ACTIVE
    closed = None
    for number in range(100):
        now = 100.01 + number * 0.025
        # The other one is heard, but acknowledges nothing.
        commands = machine.message_received(
            active_message(200 + number)._replace(role=Role.STANDBY), now
        ) + machine.tick(now)
        assert not any(isinstance(each, ExtendLease) for each in commands)
        if any(isinstance(each, CloseGate) for each in commands):
            closed = now
            break
    assert closed is not None
    assert closed <= 100.0 + DEFAULT.lease + 0.05


def test_a_router_that_suddenly_hears_nobody_and_no_gateway_does_not_open() -> None:
    """Its wire was cut just after it started: on the other side there may be an active one."""
    machine = StateMachine(1, 100.0, has_arbiter=False)
    machine.tick(100.0)
    machine.gateway_answered(machine.state.requests.last, 100.01)
    machine.address_free(101.0)
    commands = [each for number in range(200) for each in machine.tick(101 + number * 0.025)]
    assert not any(isinstance(each, TakeOver) for each in commands)
    machine.gateway_answered(machine.state.requests.last, 106.0)
    assert machine.role is Role.ACTIVE


def test_one_router_at_a_time_is_acknowledged() -> None:
    machine = standby_machine(100.0)
    (first,) = (
        each.message
        for each in machine.message_received(active_message(100), 100.0)
        if isinstance(each, SendMessage)
    )
    assert first.ack_to == 9
    claim = active_message(1, sender=1000)._replace(role=Role.CLAIMING)
    assert not [each for each in machine.message_received(claim, 100.1) if isinstance(each, SendMessage)]
    later = machine.message_received(claim._replace(seq=2), 100.0 + DEFAULT.hold_off + 0.01)
    (second,) = (each.message for each in later if isinstance(each, SendMessage))
    assert second.ack_to == 1000


def said(commands: Sequence[Command]) -> list[Message]:
    return [each.message for each in commands if isinstance(each, SendMessage)]


def active_machine(now: float) -> StateMachine:
    """A router that took the lease over a moment ago from 9, which is leaving, and that 5 hears."""
    machine = standby_machine(now - 0.02)
    (sent,) = said(machine.message_received(active_message(100), now - 0.02))
    hand_over = active_message(101, hand_over_to=1, hand_over_seq=sent.seq)._replace(role=Role.LEAVING)
    machine.message_received(hand_over, now - 0.01)
    machine.message_received(active_message(102)._replace(role=Role.GONE), now - 0.01)
    assert machine.role is Role.ACTIVE
    return machine


def standby_message(seq: int, *, sender: int = 5, **fields: int) -> Message:
    return active_message(seq, sender=sender, **fields)._replace(role=Role.STANDBY)


def test_a_router_that_is_asked_to_leave_goes_on_until_its_successor_is_ready() -> None:
    machine = active_machine(100.0)
    machine.message_received(standby_message(1), 100.0)
    asked = said(machine.tick(100.06))[-1].seq
    machine.message_received(standby_message(2, ack_to=1, ack_seq=asked), 100.07)
    machine.message_received(standby_message(3), 100.1)
    (sent,) = said(machine.leave(100.11))
    assert (machine.role, sent.successor) == (Role.ACTIVE, 5)
    assert not [each for each in machine.tick(100.14) if isinstance(each, CloseGate)]
    commands = machine.message_received(standby_message(4)._replace(ready=True), 100.15)
    (hand_over,) = said(commands)
    assert [type(each) for each in commands] == [CloseGate, StartTimer, SendMessage]
    assert (hand_over.role, hand_over.hand_over_to) == (Role.LEAVING, 5)


def test_a_router_that_leaves_does_not_wait_for_a_successor_for_long() -> None:
    machine = active_machine(100.0)
    machine.message_received(standby_message(1), 100.0)
    machine.leave(100.05)
    machine.message_received(standby_message(2), 100.2)
    machine.tick(100.05 + DEFAULT.successor_wait)
    assert machine.role is Role.LEAVING


def test_a_successor_makes_itself_ready_once_and_says_so() -> None:
    machine = standby_machine(100.0)
    first = machine.message_received(active_message(100, successor=1), 100.0)
    assert isinstance(first[0], PrepareTakeOver)
    assert said(first)[0].ready
    again = machine.message_received(active_message(101, successor=1), 100.05)
    assert not any(isinstance(each, PrepareTakeOver) for each in again)
    assert machine.is_ready(100.05)
    assert not machine.is_ready(100.06 + DEFAULT.ready), "the other one did not leave after all"


def test_a_hand_over_gives_no_more_than_the_lease_that_was_given_up() -> None:
    """Others may wait only as long as the one that hands over might have had its gate open."""
    machine = active_machine(100.0)
    machine.message_received(standby_message(1), 100.04)
    asked = said(machine.tick(100.06))[-1].seq
    machine.message_received(standby_message(2, ack_to=1, ack_seq=asked), 100.07)
    machine.leave(100.2)
    (hand_over,) = said(machine.message_received(standby_message(3)._replace(ready=True), 100.21))
    assert hand_over.hand_over_seq == 1, "2 and 3 were sent after the request that gave the lease"


def test_the_hold_off_follows_the_lease_that_is_handed_over() -> None:
    """The successor may be frozen before it opens: no other router opens, but it is acknowledged at once."""
    machine = standby_machine(100.0)
    machine.message_received(active_message(100), 100.0)
    handed = active_message(101, hand_over_to=5, hand_over_seq=7, ack_to=5, ack_seq=7)
    machine.message_received(handed._replace(role=Role.LEAVING), 100.01)
    machine.message_received(active_message(102, ack_to=5, ack_seq=7)._replace(role=Role.GONE), 100.02)
    opened = [
        now for now in range(1, 25) if any(isinstance(a, TakeOver) for a in machine.tick(100 + now / 50))
    ]
    assert not opened
    (answer,) = said(machine.message_received(active_message(8, sender=5), 100.5))
    assert (answer.ack_to, answer.ack_seq) == (5, 8)


def machine_with_arbiter(now: float) -> StateMachine:
    """A router that is one of two members, the other one, 9, active and heard until now."""
    machine = StateMachine(1, now - 2.0, has_arbiter=True)
    machine.address_free(now - 1.0)
    for number in range(40):
        at = now - 1.0 + number * 0.025
        message = active_message(number + 1)._replace(term=4)
        for command in [*machine.message_received(message, at), *machine.tick(at)]:
            if isinstance(command, AskArbiter):
                machine.arbiter_answered(ArbiterAnswer(command.token, False, frozenset({1, 9}), 4, "7"), at)
    assert machine.role is Role.STANDBY
    return machine


def asks(commands: Sequence[Command]) -> list[AskArbiter]:
    return [each for each in commands if isinstance(each, AskArbiter)]


def test_an_attempt_to_be_named_alone_that_was_not_answered_is_settled_when_the_partner_is_back() -> None:
    """Else neither acknowledges the other: what each of them wrote might still name it alone."""
    machine = machine_with_arbiter(100.0)
    now, attempt = 100.0, None
    while attempt is None:
        now += 0.025
        for command in machine.tick(now):
            if isinstance(command, AskArbiter) and command.members is None:
                machine.arbiter_answered(ArbiterAnswer(command.token, False, frozenset({1, 9}), 4, "7"), now)
            elif isinstance(command, AskArbiter):
                attempt = command
        machine.gateway_answered(machine.state.requests.last, now)
        assert now < 102
    assert attempt.members == frozenset({1})
    machine.arbiter_answered(ArbiterAnswer(attempt.token, False, None, 0, None), now)
    settled, seq = None, 1000
    while settled is None:
        now, seq = now + 0.025, seq + 1
        machine.message_received(standby_message(seq, sender=9, term=4), now)
        for command in asks(machine.tick(now)):
            if command.members is None:
                machine.arbiter_answered(ArbiterAnswer(command.token, False, frozenset({1, 9}), 4, "7"), now)
            else:
                settled = command
        assert now < 104
    assert (settled.members, settled.version) == (frozenset({1, 9}), "7")


def test_a_member_does_not_leave_before_it_knows_that_the_other_one_lives() -> None:
    """Else the arbiter names two that are gone, and others wait for them for a long time."""
    machine = machine_with_arbiter(100.0)
    machine.leave(100.0)
    assert machine.is_needed(100.05)
    machine.message_received(active_message(500)._replace(term=4), 100.06)
    assert not machine.is_needed(100.07)
