"""Runs trials, and prints their results."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import time
from typing import TYPE_CHECKING

from egress_router.lab.failover import laboratories
from egress_router.lab.failover.laboratories import Failure
from egress_router.lab.failover.report import line, report
from egress_router.lab.failover.trial import Fault, Result

if TYPE_CHECKING:
    from collections.abc import Iterator


def main() -> int:
    """Run trials, all faults in turn; return 1 if two routers ever sent at once, or a trial failed."""
    arguments = _arguments()
    kinds = [Fault[name] for name in arguments.only.split(",")] if arguments.only else list(Fault)
    faults = _in_time(itertools.islice(itertools.cycle(kinds), arguments.trials), arguments.seconds)
    results: list[Result] = []
    failed, is_interrupted = 0, False
    try:
        with contextlib.closing(
            laboratories.run(faults, arguments.parallel, has_arbiter=arguments.lease)
        ) as outcomes:
            for outcome in outcomes:
                print(line(outcome), flush=True)
                if isinstance(outcome, Failure):
                    failed += 1
                else:
                    results.append(outcome)
    except KeyboardInterrupt:
        is_interrupted = True
        print("interrupted")
    print(report(results))
    load = os.getloadavg()[0]
    print(f"{len(results)} trials, {arguments.parallel} at once, {failed} failed; load {load:.1f} at the end")
    if is_interrupted:
        return 130
    return 1 if failed or any(result.second_owner for result in results) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="fail-over trials")
    parser.add_argument("trials", type=int)
    parser.add_argument("--lease", action="store_true", help="with a Lease as arbiter, and an API server")
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="laboratories side by side (1)")
    parser.add_argument("--seconds", type=float, help="begin no trial after this time")
    parser.add_argument(
        "--only", help="kinds, separated by commas: " + ", ".join(each.name for each in Fault)
    )
    return parser.parse_args()


def _in_time(faults: Iterator[Fault], seconds: float | None) -> Iterator[Fault]:
    end = None if seconds is None else time.monotonic() + seconds
    for number, fault in enumerate(faults):
        if end is not None and time.monotonic() > end:
            print(f"the time is up after {number} trials")
            return
        yield fault


if __name__ == "__main__":
    sys.exit(main())
