"""What the simulation does not show by itself: single steps of the pair protocol."""

from __future__ import annotations

from egress_router.standby.actions import Approve, Arm, Close, Message, Open, Send
from egress_router.standby.machine import Machine
from egress_router.standby.role import Role
from egress_router.standby.timing import DEFAULT


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


def test_a_promise_goes_to_one_at_a_time() -> None:
    machine = standby_machine(100.0)
    (first,) = (each.message for each in machine.heard(active_message(100), 100.0) if isinstance(each, Send))
    assert first.promise_to == 9
    claim = active_message(1, sender=1000)._replace(role=Role.CLAIMING)
    assert not [each for each in machine.heard(claim, 100.1) if isinstance(each, Send)]
    later = machine.heard(claim._replace(seq=2), 100.0 + DEFAULT.promise + 0.01)
    (second,) = (each.message for each in later if isinstance(each, Send))
    assert second.promise_to == 1000
