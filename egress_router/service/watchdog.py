"""Finds workers that hang: they run, but do not report. Pure, except for the clock that is passed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egress_router.clock import Clock

INTERVAL = 1.0  # seconds between two calls of `overdue`; a worker reports as often
SILENT_SECONDS = 5.0
STARTING_SECONDS = 30.0  # loading the program takes a quarter of a second, and far more on a throttled CPU
_LATE_SECONDS = 1.0


@dataclass(slots=True)
class _Worker:
    heard: float  # monotonic
    serves: bool = False


class Watchdog:
    """Notes when each worker was heard.

    Time in which the whole machine, or this process, did not run (a paused virtual machine, a container
    without CPU time) does not count: no worker could be heard then.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._looked = clock.monotonic()
        self._workers: dict[int, _Worker] = {}

    def started(self, slot: int) -> None:
        """Note that a worker started in this slot."""
        self._workers[slot] = _Worker(self._clock.monotonic())

    def heard(self, slot: int, *, serves: bool) -> None:
        """Note that the worker in this slot sent something, and whether it serves already."""
        worker = self._workers.get(slot)
        if worker is not None:
            worker.heard, worker.serves = self._clock.monotonic(), serves

    def ended(self, slot: int) -> None:
        """Note that there is no worker in this slot any more."""
        self._workers.pop(slot, None)

    def overdue(self) -> dict[int, float]:
        """Return the workers to replace, each with the seconds of its silence; to be called each second."""
        now = self._clock.monotonic()
        late = now - self._looked - INTERVAL
        self._looked = now
        if late > _LATE_SECONDS:
            for worker in self._workers.values():
                worker.heard += late
        return self.silent(SILENT_SECONDS, STARTING_SECONDS)

    def silent(self, seconds: float, starting_seconds: float) -> dict[int, float]:
        """Return the workers that have been silent for longer than that, each with the seconds."""
        now = self._clock.monotonic()
        return {
            slot: now - worker.heard
            for slot, worker in self._workers.items()
            if now - worker.heard >= (seconds if worker.serves else starting_seconds)
        }
