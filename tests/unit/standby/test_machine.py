"""What the simulation does not show by itself: single steps of the pair protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.standby.protocol.commands import (
    Answer,
    Approve,
    Arm,
    Ask,
    Close,
    Message,
    Open,
    Prepare,
    Send,
)
from egress_router.standby.protocol.role import Role
from egress_router.standby.protocol.state_machine import Machine
from egress_router.standby.protocol.timing import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.standby.protocol.commands import Action


def active_message(seq: int, *, sender: int = 9, **fields: int) -> Message:
    said = Message(sender, seq, Role.ACTIVE, True, 1, 0, 0, 0, 0, 0, 0)
    return said._replace(**fields)  # type: ignore[arg-type]


def standby_machine(now: float) -> Machine:
    """A router that has listened, beside an active one that speaks until `now`."""
    machine = Machine(1, now - 2.0, has_witness=False)
    machine.free(now - 1.0)
    for number in range(40):
        at = now - 1.0 + number * 0.025
        machine.heard(active_message(number + 1), at)
        machine.tick(at)
    assert machine.role is Role.STANDBY
    return machine


def test_a_router_beside_an_active_one_is_standing_by_however_often_that_one_speaks_for_the_address() -> None:
    machine = Machine(1, 0.0, has_witness=False)
    machine.free(0.9)
    for number in range(120):
        now = number * 0.025
        machine.heard(active_message(number + 1), now)
        machine.answered(now)
        machine.tick(now)
    assert machine.role is Role.STANDBY


def test_a_question_is_armed_before_it_is_asked() -> None:
    machine = Machine(1, 0.0, has_witness=False)
    actions = [each for number in range(10) for each in machine.tick(number * 0.05)]
    armed: set[int] = set()
    for action in actions:
        if isinstance(action, Arm):
            armed.add(action.slot)
        elif isinstance(action, Send):
            assert action.message.seq in armed


def test_a_promise_is_kept_after_silence() -> None:
    machine = standby_machine(100.0)
    machine.heard(active_message(100), 100.0)
    now, opened = 100.0, None
    while opened is None:
        now += 0.025
        actions = machine.tick(now)
        actions += machine.gateway(machine.situation.questions.last, now)
        if any(isinstance(each, Open) for each in actions):
            opened = now
    assert DEFAULT.promise <= opened - 100.0 < DEFAULT.promise + 0.1


def test_a_grant_opens_at_once_and_an_old_one_never() -> None:
    for late, role in ((0.0, Role.ACTIVE), (DEFAULT.lease, Role.STANDBY)):
        machine = standby_machine(100.0)
        (sent,) = (
            each.message for each in machine.heard(active_message(100), 100.0) if isinstance(each, Send)
        )
        grant = active_message(101, grant_to=1, grant_seq=sent.seq)._replace(role=Role.LEAVING)
        machine.heard(grant, 100.0 + late)
        assert machine.role is role


def test_an_active_router_without_promises_closes_in_time() -> None:
    machine = standby_machine(100.0)
    (sent,) = (each.message for each in machine.heard(active_message(100), 100.0) if isinstance(each, Send))
    machine.heard(active_message(101, grant_to=1, grant_seq=sent.seq)._replace(role=Role.LEAVING), 100.01)
    assert machine.role is Role.ACTIVE
    closed = None
    for number in range(100):
        now = 100.01 + number * 0.025
        # The other one is heard, but promises nothing.
        actions = machine.heard(active_message(200 + number)._replace(role=Role.STANDBY), now) + machine.tick(
            now
        )
        assert not any(isinstance(each, Approve) for each in actions)
        if any(isinstance(each, Close) for each in actions):
            closed = now
            break
    assert closed is not None
    assert closed <= 100.0 + DEFAULT.lease + 0.05


def test_a_router_that_suddenly_hears_nobody_and_no_gateway_does_not_open() -> None:
    """Its wire was cut just after it started: on the other side there may be an active one."""
    machine = Machine(1, 100.0, has_witness=False)
    machine.tick(100.0)
    machine.gateway(machine.situation.questions.last, 100.01)
    machine.free(101.0)
    actions = [each for number in range(200) for each in machine.tick(101 + number * 0.025)]
    assert not any(isinstance(each, Open) for each in actions)
    machine.gateway(machine.situation.questions.last, 106.0)
    assert machine.role is Role.ACTIVE


def test_a_promise_goes_to_one_at_a_time() -> None:
    machine = standby_machine(100.0)
    (first,) = (each.message for each in machine.heard(active_message(100), 100.0) if isinstance(each, Send))
    assert first.promise_to == 9
    claim = active_message(1, sender=1000)._replace(role=Role.CLAIMING)
    assert not [each for each in machine.heard(claim, 100.1) if isinstance(each, Send)]
    later = machine.heard(claim._replace(seq=2), 100.0 + DEFAULT.promise + 0.01)
    (second,) = (each.message for each in later if isinstance(each, Send))
    assert second.promise_to == 1000


def said(actions: Sequence[Action]) -> list[Message]:
    return [each.message for each in actions if isinstance(each, Send)]


def active_machine(now: float) -> Machine:
    """A router that was granted the right a moment ago by 9, which is leaving, and that 5 hears."""
    machine = standby_machine(now - 0.02)
    (sent,) = said(machine.heard(active_message(100), now - 0.02))
    grant = active_message(101, grant_to=1, grant_seq=sent.seq)._replace(role=Role.LEAVING)
    machine.heard(grant, now - 0.01)
    machine.heard(active_message(102)._replace(role=Role.GONE), now - 0.01)
    assert machine.role is Role.ACTIVE
    return machine


def standby_message(seq: int, *, sender: int = 5, **fields: int) -> Message:
    return active_message(seq, sender=sender, **fields)._replace(role=Role.STANDBY)


def test_a_router_that_is_asked_to_leave_goes_on_until_its_heir_is_ready() -> None:
    machine = active_machine(100.0)
    machine.heard(standby_message(1), 100.0)
    asked = said(machine.tick(100.06))[-1].seq
    machine.heard(standby_message(2, promise_to=1, promise_seq=asked), 100.07)
    machine.heard(standby_message(3), 100.1)
    (question,) = said(machine.leave(100.11))
    assert (machine.role, question.heir) == (Role.ACTIVE, 5)
    assert not [each for each in machine.tick(100.14) if isinstance(each, Close)]
    actions = machine.heard(standby_message(4)._replace(ready=True), 100.15)
    (grant,) = said(actions)
    assert [type(each) for each in actions] == [Close, Arm, Send]
    assert (grant.role, grant.grant_to) == (Role.LEAVING, 5)


def test_a_router_that_leaves_does_not_wait_for_an_heir_for_long() -> None:
    machine = active_machine(100.0)
    machine.heard(standby_message(1), 100.0)
    machine.leave(100.05)
    machine.heard(standby_message(2), 100.2)
    machine.tick(100.05 + DEFAULT.yielding)
    assert machine.role is Role.LEAVING


def test_an_heir_makes_itself_ready_once_and_says_so() -> None:
    machine = standby_machine(100.0)
    first = machine.heard(active_message(100, heir=1), 100.0)
    assert isinstance(first[0], Prepare)
    assert said(first)[0].ready
    again = machine.heard(active_message(101, heir=1), 100.05)
    assert not any(isinstance(each, Prepare) for each in again)
    assert machine.is_ready(100.05)
    assert not machine.is_ready(100.06 + DEFAULT.ready), "the other one did not leave after all"


def test_a_grant_gives_no_more_than_the_right_that_was_given_up() -> None:
    """Others may wait only as long as the one that grants might have had its gate open."""
    machine = active_machine(100.0)
    machine.heard(standby_message(1), 100.04)
    asked = said(machine.tick(100.06))[-1].seq
    machine.heard(standby_message(2, promise_to=1, promise_seq=asked), 100.07)
    machine.leave(100.2)
    (grant,) = said(machine.heard(standby_message(3)._replace(ready=True), 100.21))
    assert grant.grant_seq == 1, "2 and 3 were asked after the question that gave the right"


def test_a_promise_follows_the_right_that_is_handed_over() -> None:
    """The heir may be frozen between the grant and its gate: nobody else opens, but it gets promises at once."""
    machine = standby_machine(100.0)
    machine.heard(active_message(100), 100.0)
    handed = active_message(101, grant_to=5, grant_seq=7, promise_to=5, promise_seq=7)
    machine.heard(handed._replace(role=Role.LEAVING), 100.01)
    machine.heard(active_message(102, promise_to=5, promise_seq=7)._replace(role=Role.GONE), 100.02)
    opened = [now for now in range(1, 25) if any(isinstance(a, Open) for a in machine.tick(100 + now / 50))]
    assert not opened
    (answer,) = said(machine.heard(active_message(8, sender=5), 100.5))
    assert (answer.promise_to, answer.promise_seq) == (5, 8)


def witnessed_machine(now: float) -> Machine:
    """A router that is one of two members, the other one, 9, active and heard until now."""
    machine = Machine(1, now - 2.0, has_witness=True)
    machine.free(now - 1.0)
    for number in range(40):
        at = now - 1.0 + number * 0.025
        message = active_message(number + 1)._replace(term=4)
        for action in [*machine.heard(message, at), *machine.tick(at)]:
            if isinstance(action, Ask):
                machine.witnessed(Answer(action.token, False, frozenset({1, 9}), 4, "7"), at)
    assert machine.role is Role.STANDBY
    return machine


def asks(actions: Sequence[Action]) -> list[Ask]:
    return [each for each in actions if isinstance(each, Ask)]


def test_an_attempt_to_be_named_alone_that_was_not_answered_is_settled_when_the_partner_is_back() -> None:
    """Else neither promises: each of the two might still be named alone by what it wrote."""
    machine = witnessed_machine(100.0)
    now, attempt = 100.0, None
    while attempt is None:
        now += 0.025
        for action in machine.tick(now):
            if isinstance(action, Ask) and action.members is None:
                machine.witnessed(Answer(action.token, False, frozenset({1, 9}), 4, "7"), now)
            elif isinstance(action, Ask):
                attempt = action
        machine.gateway(machine.situation.questions.last, now)
        assert now < 102
    assert attempt.members == frozenset({1})
    machine.witnessed(Answer(attempt.token, False, None, 0, None), now)
    settled, seq = None, 1000
    while settled is None:
        now, seq = now + 0.025, seq + 1
        machine.heard(standby_message(seq, sender=9, term=4), now)
        for action in asks(machine.tick(now)):
            if action.members is None:
                machine.witnessed(Answer(action.token, False, frozenset({1, 9}), 4, "7"), now)
            else:
                settled = action
        assert now < 104
    assert (settled.members, settled.version) == (frozenset({1, 9}), "7")


def test_a_member_does_not_leave_before_it_knows_that_the_other_one_lives() -> None:
    """Else the witness names two that are gone, and others wait for them for long."""
    machine = witnessed_machine(100.0)
    machine.leave(100.0)
    assert machine.is_needed(100.05)
    machine.heard(active_message(500)._replace(term=4), 100.06)
    assert not machine.is_needed(100.07)
