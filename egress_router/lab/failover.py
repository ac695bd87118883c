"""Fail-over trials on real kernels: what a client misses, and whether two routers ever sent at once.

`python -m egress_router.lab.failover 1000` runs that many, the kinds in turn, and prints percentiles.
"""

from __future__ import annotations

import argparse
import enum
import itertools
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.lab import wiring
from egress_router.lab.pair import Pair

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from egress_router.lab.pair import Frame, Side

_SETTLE_SECONDS = 30.0
_AFTER = 1.5  # seconds that a trial goes on after its take-over, for a second owner to show up
_EVERY, _PATIENCE = 0.01, 0.15  # seconds between two connections of the client, and for one of them


class Fault(enum.Enum):
    """What happens to the active router, or to what is between the two."""

    TERM = "SIGTERM"
    KILL = "SIGKILL of all processes"
    STOP = "SIGSTOP, SIGCONT later"
    CABLE = "cable pulled"
    WIRE = "wire cut in two"
    POD_NETWORK = "pod network cut"
    BOTH = "wire and pod network cut"
    NODE = "node gone"
    GATEWAY = "gateway restarted"
    STANDBY = "the standby one killed"


PLANNED = frozenset({Fault.TERM, Fault.CABLE})
MOVES = frozenset({Fault.TERM, Fault.KILL, Fault.STOP, Fault.CABLE, Fault.BOTH, Fault.NODE})


@dataclass(frozen=True, slots=True)
class Result:
    """The longest time without an answered connection, and the frames of a second owner."""

    fault: Fault
    gap: float
    second_owner: tuple[Frame, ...]


class _Client:
    """A client that opens a connection every moment, through whichever pod answers."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._ended = threading.Event()
        self._answers: list[float] = []
        self._threads = [
            threading.Thread(target=self._ask, args=(side.address,), daemon=True) for side in pair.sides
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def _ask(self, address: str) -> None:
        while not self._ended.is_set():
            threading.Thread(target=self._once, args=(address,), daemon=True).start()
            time.sleep(_EVERY)

    def _once(self, address: str) -> None:
        # Counted from the beginning: that is when a connection could be made.
        begun = time.monotonic()
        if self._pair.ask(address, _PATIENCE):
            self._answers.append(begun)

    def gap(self, since: float) -> float:
        """End, and return the longest time between two answered connections."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        time.sleep(_PATIENCE)
        answers = [
            since,
            *sorted(each for each in self._answers if each >= since),
            time.monotonic() - _PATIENCE,
        ]
        return max(after - before for before, after in itertools.pairwise(answers))


class Trials:
    """Trials one after another on one laboratory."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = environment or {}
        self._pair = Pair()
        try:
            self._pair.serve()
        except BaseException:
            self._pair.close()
            raise

    def close(self) -> None:
        """End everything."""
        self._pair.close()

    def run(self, fault: Fault) -> Result:
        """Run one trial, from a healthy pair to a healthy pair."""
        pair = self._pair
        active = self._healthy()
        other = next(side for side in pair.sides if side is not active)
        pair.frames.clear()
        client = _Client(pair)
        client.start()
        time.sleep(0.3)
        since = time.monotonic()
        self._begin(fault, active, other)
        if fault in MOVES:
            pair.await_active(other)
        time.sleep(_AFTER)
        self._finish(fault, active)
        time.sleep(_AFTER)
        gap = client.gap(since)
        return Result(fault, gap, tuple(pair.second_owner()))

    def _healthy(self) -> Side:
        """Have both routers run, one of them active and the other one standing by."""
        pair = self._pair
        for side in pair.sides:
            if side.router is None or side.router.poll() is not None:
                pair.start(side, self._environment)
        active = pair.await_active()
        pair.await_standby(next(side for side in pair.sides if side is not active))
        return active

    def _begin(self, fault: Fault, active: Side, other: Side) -> None:
        pair = self._pair
        if fault is Fault.TERM:
            active.signal(signal.SIGTERM)
        elif fault is Fault.KILL:
            active.signal(signal.SIGKILL)
        elif fault is Fault.STOP:
            active.signal(signal.SIGSTOP)
        elif fault is Fault.CABLE:
            wiring.set_down(pair.gateway, f"cable{active.number}")
        elif fault is Fault.WIRE:
            pair.isolate(other)
        elif fault is Fault.POD_NETWORK:
            wiring.set_down(pair.network, f"pod{other.number}")
        elif fault is Fault.BOTH:
            pair.isolate(active)
            pair.mute(active)
        elif fault is Fault.NODE:
            pair.lose_node(active)
        elif fault is Fault.GATEWAY:
            pair.restart_gateway()
        elif fault is Fault.STANDBY:
            other.signal(signal.SIGKILL)

    def _finish(self, fault: Fault, active: Side) -> None:
        pair = self._pair
        if fault is Fault.STOP:
            active.signal(signal.SIGCONT)
        elif fault is Fault.NODE:
            pair.restore_node(active)
        else:
            pair.heal()


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def report(results: Sequence[Result]) -> str:
    """Return a table of the trials."""
    lines = [
        f"{'fault':28} {'trials':>6} {'p50':>7} {'p90':>7} {'p99':>7} {'max':>7}  frames of a second owner"
    ]
    for fault in Fault:
        gaps = [result.gap for result in results if result.fault is fault]
        if gaps:
            figures = " ".join(f"{percentile(gaps, share):6.3f}s" for share in (0.5, 0.9, 0.99, 1.0))
            frames = sum(len(result.second_owner) for result in results if result.fault is fault)
            lines.append(f"{fault.value:28} {len(gaps):6} {figures}  {frames}")
    return "\n".join(lines)


def main() -> int:
    """Run trials, the kinds in turn."""
    parser = argparse.ArgumentParser(description="fail-over trials")
    parser.add_argument("trials", type=int)
    arguments = parser.parse_args()
    trials = Trials()
    results: list[Result] = []
    try:
        for number in range(arguments.trials):
            results.append(trials.run(list(Fault)[number % len(Fault)]))
            if number % 50 == 49:
                print(report(results), flush=True)
    finally:
        trials.close()
    print(report(results))
    return 1 if any(result.second_owner for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
