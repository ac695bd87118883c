"""Workers that hang: which are to be replaced, and when."""

from __future__ import annotations

from egress_router.service.watchdog import Watchdog
from tests.manual_clock import ManualClock


def seconds_pass(watchdog: Watchdog, clock: ManualClock, seconds: int, *reporting: int) -> list[int]:
    """Let seconds pass in which some workers report; return who was overdue in the last of them."""
    overdue: list[int] = []
    for _ in range(seconds):
        clock.advance(1)
        for slot in reporting:
            watchdog.heard(slot, serves=True)
        overdue = list(watchdog.overdue())
    return overdue


def test_a_worker_that_is_silent_for_five_seconds_is_overdue() -> None:
    clock = ManualClock()
    watchdog = Watchdog(clock)
    for slot in (0, 1):
        watchdog.started(slot)
        watchdog.heard(slot, serves=True)
    assert seconds_pass(watchdog, clock, 4, 0) == []
    assert seconds_pass(watchdog, clock, 1, 0) == [1]
    watchdog.ended(1)
    assert seconds_pass(watchdog, clock, 60, 0) == []


def test_a_worker_that_starts_has_half_a_minute() -> None:
    clock = ManualClock()
    watchdog = Watchdog(clock)
    watchdog.started(0)
    assert seconds_pass(watchdog, clock, 29) == []
    assert seconds_pass(watchdog, clock, 1) == [0]


def test_time_in_which_the_supervisor_did_not_run_is_no_fault_of_the_workers() -> None:
    clock = ManualClock()
    watchdog = Watchdog(clock)
    watchdog.started(0)
    watchdog.heard(0, serves=True)
    clock.advance(600)  # the machine was paused, and both go on
    assert watchdog.overdue() == {}
    assert seconds_pass(watchdog, clock, 3) == []
    assert seconds_pass(watchdog, clock, 2) == [0]


def test_what_is_said_of_a_slot_without_a_worker_does_not_count() -> None:
    clock = ManualClock()
    watchdog = Watchdog(clock)
    watchdog.heard(0, serves=True)
    assert seconds_pass(watchdog, clock, 60) == []


def test_one_that_could_not_be_killed_either_is_told_with_its_silence() -> None:
    clock = ManualClock()
    watchdog = Watchdog(clock)
    watchdog.started(0)
    watchdog.heard(0, serves=True)
    seconds_pass(watchdog, clock, 31)
    assert watchdog.silent(30, 60) == {0: 31}
