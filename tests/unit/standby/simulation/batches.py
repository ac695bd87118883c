"""What a process of the pool runs. Not in `__main__`, which one that is not a fork of its parent cannot import."""

from __future__ import annotations

import signal

from tests.unit.standby.simulation.schedules import schedule
from tests.unit.standby.simulation.world import BrokenError


def run(seeds: range) -> tuple[range, list[str]]:
    """Run some schedules, and tell of those that do not hold."""
    wrong = []
    for seed in seeds:
        try:
            schedule(seed)
        except BrokenError as error:
            wrong.append(str(error))
        except Exception as error:  # noqa: BLE001 (told with its seed)
            wrong.append(f"seed {seed}: {error!r}")
    return seeds, wrong


def leave_interrupts_to_parent() -> None:
    """Ignore Ctrl-C, which a terminal sends to the whole group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
