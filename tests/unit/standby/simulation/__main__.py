"""Runs many schedules on all processors: `python -m tests.unit.standby.simulation 1000000 --compiled`."""

# ruff: noqa: T201 (what it prints is its result)
from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time

from tests.unit.standby.simulation import compiled
from tests.unit.standby.simulation.batches import leave_interrupts_to_parent, run
from tests.unit.standby.simulation.schedules import digest

_BATCH = 500
_TELL_SECONDS = 30.0  # between two lines that tell how far it is


class _Progress:
    """What was run so far, and which of it does not hold."""

    def __init__(self, schedules: int) -> None:
        self._schedules = schedules
        self._started = self._told = time.monotonic()
        self._done = 0
        self.broken = 0

    def add(self, done: int, wrong: list[str]) -> None:
        self._done += done
        self.broken += len(wrong)
        for line in wrong[:5]:
            print(line, flush=True)
        if time.monotonic() - self._told >= _TELL_SECONDS:
            self._told = time.monotonic()
            self.tell()

    def tell(self) -> None:
        seconds = time.monotonic() - self._started
        left = seconds / max(self._done, 1) * (self._schedules - self._done)
        print(
            f"{self._done} of {self._schedules} schedules in {seconds:.0f} s, {self.broken} broken;"
            f" {left:.0f} s to go",
            flush=True,
        )


def main() -> int:
    """Run them; 1 where one does not hold, 130 where it was interrupted."""
    parser = argparse.ArgumentParser(description="simulate groups of routers")
    parser.add_argument("schedules", type=int)
    parser.add_argument("--first", type=int, default=0, help="the seed of the first one")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--compiled", action="store_true", help="compile protocol and world first; faster")
    parser.add_argument(
        "--digest", action="store_true", help="print the digest of the states that they end in"
    )
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.schedules)
    if arguments.compiled:
        compiled.run([each for each in sys.argv[1:] if each != "--compiled"])
    if arguments.digest:
        print(digest(seeds))
        return 0
    return _run(seeds, arguments.processes)


def _run(seeds: range, processes: int) -> int:
    parts = [seeds[start : start + _BATCH] for start in range(0, len(seeds), _BATCH)]
    progress = _Progress(len(seeds))
    try:
        with multiprocessing.Pool(processes, leave_interrupts_to_parent) as pool:
            for part, wrong in pool.imap_unordered(run, parts):
                progress.add(len(part), wrong)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        progress.tell()
        return 130
    progress.tell()
    return 1 if progress.broken else 0


if __name__ == "__main__":
    sys.exit(main())
