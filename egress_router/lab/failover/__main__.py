"""Runs trials, and prints what they showed."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time

from egress_router.lab.failover.report import report
from egress_router.lab.failover.trial import Fault, Result, Trials


class _Run:
    """As many trials as were asked for, on a new laboratory after one that failed."""

    def __init__(self, *, has_arbiter: bool) -> None:
        self._has_arbiter = has_arbiter
        self._trials: Trials | None = None
        self.results: list[Result] = []
        self.failed = 0

    def once(self, fault: Fault) -> None:
        """Run one trial; what fails is told, and counted."""
        try:
            if self._trials is None:
                self._trials = Trials(has_arbiter=self._has_arbiter)
            result = self._trials.run(fault)
        except Exception as error:  # noqa: BLE001 (whatever it is, the trials after it are still of use)
            self.failed += 1
            print(f"{fault.value}: FAILED: {error!r}", flush=True)
            self.close()
            return
        self.results.append(result)
        wire = "" if result.wire is None else f", wire {result.wire:.3f} s"
        frames = len(result.second_owner)
        print(
            f"{fault.value}: {result.gap:.3f} s{wire}, machine {result.machine:.3f} s, {frames} frames",
            flush=True,
        )

    def close(self) -> None:
        """End the laboratory."""
        trials, self._trials = self._trials, None
        if trials is not None:
            with contextlib.suppress(OSError):
                trials.close()


def main() -> int:
    """Run trials, the kinds in turn; 1 where two routers ever sent at once, or a trial failed."""
    parser = argparse.ArgumentParser(description="fail-over trials")
    parser.add_argument("trials", type=int)
    parser.add_argument("--lease", action="store_true", help="with a Lease as arbiter, and an API server")
    parser.add_argument("--seconds", type=float, help="begin no trial after so long")
    parser.add_argument(
        "--only", help="kinds, separated by commas: " + ", ".join(each.name for each in Fault)
    )
    arguments = parser.parse_args()
    kinds = [Fault[name] for name in arguments.only.split(",")] if arguments.only else list(Fault)
    end = None if arguments.seconds is None else time.monotonic() + arguments.seconds
    run = _Run(has_arbiter=arguments.lease)
    try:
        for number in range(arguments.trials):
            if end is not None and time.monotonic() > end:
                print(f"the time is up after {number} trials")
                break
            run.once(kinds[number % len(kinds)])
    finally:
        run.close()
    load = os.getloadavg()[0]
    print(report(run.results))
    print(f"{len(run.results)} trials, {run.failed} failed; load {load:.1f} at the end")
    return 1 if run.failed or any(result.second_owner for result in run.results) else 0


if __name__ == "__main__":
    sys.exit(main())
