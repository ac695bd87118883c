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

    from egress_router.lab.side import Side
    from egress_router.lab.wire_watch import Frame

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
    API = "API server hangs"


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
        words = [str(_EVERY), str(_PATIENCE), *(side.address for side in pair.sides)]
        self._process = pair.client.start([sys.executable, "-m", "egress_router.lab.knock", *words])
        self._answers: list[float] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        if self._process.stdout is not None:
            self._answers.extend(float(line) for line in self._process.stdout)

    def await_answer(self) -> None:
        """Wait until its process runs and a connection was answered."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while not self._answers:
            if time.monotonic() > deadline:
                raise RuntimeError("no connection of the client was answered")
            time.sleep(_EVERY)

    def gap(self, since: float) -> float:
        """End, and return the longest time between two answered connections."""
        end = time.monotonic() - _PATIENCE
        self._process.kill()
        self._process.wait()
        self._reader.join()
        answers = [since, *sorted(each for each in self._answers if since <= each <= end), end]
        return max(after - before for before, after in itertools.pairwise(answers))


class Trials:
    """Trials one after another on one laboratory."""

    def __init__(self, environment: Mapping[str, str] | None = None, *, has_witness: bool = False) -> None:
        self._environment = dict(environment or {})
        self._pair = Pair()
        try:
            self._pair.serve()
            if has_witness:
                self._environment |= self._pair.serve_api()
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
        pair.wire.frames.clear()
        client = _Client(pair)
        client.await_answer()
        since = time.monotonic()
        self._begin(fault, active, other)
        if fault in MOVES:
            pair.await_active(other)
        time.sleep(_AFTER)
        self._finish(fault, active)
        time.sleep(_AFTER)
        gap = client.gap(since)
        return Result(fault, gap, tuple(pair.wire.second_owner()))

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
        elif fault is Fault.API:
            pair.pause_api()
        elif fault is Fault.STANDBY:
            other.signal(signal.SIGKILL)

    def _finish(self, fault: Fault, active: Side) -> None:
        pair = self._pair
        if fault in {Fault.TERM, Fault.KILL} and active.router is not None:
            active.router.wait(_SETTLE_SECONDS)
        if fault is Fault.STOP:
            active.signal(signal.SIGCONT)
        elif fault is Fault.NODE:
            pair.restore_node(active)
        elif fault is Fault.API:
            pair.pause_api(goes_on=True)
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
    parser.add_argument("--lease", action="store_true", help="with a Lease as witness, and an API server")
    arguments = parser.parse_args()
    trials = Trials(has_witness=arguments.lease)
    results: list[Result] = []
    try:
        for number in range(arguments.trials):
            results.append(trials.run(list(Fault)[number % len(Fault)]))
            last = results[-1]
            print(f"{last.fault.value}: {last.gap:.3f} s, {len(last.second_owner)} frames", flush=True)
    finally:
        trials.close()
    print(report(results))
    return 1 if any(result.second_owner for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
