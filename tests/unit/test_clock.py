from __future__ import annotations

import time

import pytest

from egress_router.clock import SYSTEM, Clock
from tests.manual_clock import ManualClock


def test_the_system_clock_is_the_machines() -> None:
    before = time.monotonic()
    assert before <= SYSTEM.monotonic() <= time.monotonic()
    assert abs(SYSTEM.time() - time.time()) < 3600


def test_a_manual_clock_stands_still_until_it_is_advanced() -> None:
    clock = ManualClock(monotonic=5.0, time=100.0)
    read: Clock = clock
    assert (read.monotonic(), read.time()) == (5.0, 100.0)
    clock.advance(2.5)
    assert (read.monotonic(), read.time()) == (7.5, 102.5)
    clock.set_time(3.0)
    assert (read.monotonic(), read.time()) == (7.5, 3.0)
    with pytest.raises(AssertionError):
        clock.advance(-1)
