"""A thousand schedules; `make test-standby` runs a million. What does not hold is told with its seed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.unit.standby.simulation.schedules import schedule
from tests.unit.standby.simulation.world import BrokenError, World

EACH = 50
# The active router is stopped until its lease has ended, and its clock set back: it does not know.
STOPPED_CLOCK = 349_263


@pytest.mark.parametrize("first", range(0, 1000, EACH))
def test_schedules(first: int) -> None:
    for seed in range(first, first + EACH):
        schedule(seed)


def test_a_router_whose_clock_stood_still_does_not_extend_a_lease_that_has_ended() -> None:
    schedule(STOPPED_CLOCK)


def test_two_open_gates_would_be_noticed() -> None:
    world = World(1, 2, has_arbiter=False)
    world.until(3.0)
    (active,) = world.active()
    other = next(router for router in world.routers if router is not active)
    other.kernel.armed[10_000] = world.now + 1
    other.kernel.current = 10_000
    with pytest.raises(BrokenError, match="opens while"):
        world.opened(other)


def test_the_program_runs_them_on_all_processors_and_counts() -> None:
    command = [sys.executable, "-m", "tests.unit.standby.simulation", "4", "--processes", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("4 of 4 schedules")
    assert " 0 broken" in done.stdout
