"""Fail-over trials on real kernels: what a client misses, and whether two routers ever sent at once.

`python -m egress_router.lab.failover 1000` runs that many, the kinds in turn, and prints percentiles.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.lab import wiring
from egress_router.lab.client import EVERY, PATIENCE, Client
from egress_router.lab.pair import Pair

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from egress_router.lab.side import Side
    from egress_router.lab.wire_watch import Frame

_SETTLE_SECONDS = 30.0
_AFTER = 0.5  # seconds that the client is watched after a take-over
_QUIET = 1.3  # seconds in which a fault that moves nothing would have moved something: a right, and a claim
_RESUMED = 0.7  # seconds for one that was stopped to send, if it could


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
    """What one trial showed, in seconds.

    `gap` is the longest time without an answered connection, `machine` the same for connections that no
    router had a part in, `waited` how long the other router was ready to run and had no processor, and `wire`
    the time between the last frame of the old owner and the first of the new.
    """

    fault: Fault
    gap: float
    machine: float
    waited: float
    wire: float | None
    second_owner: tuple[Frame, ...]
    took: float  # the whole trial


class Trials:
    """Trials one after another on one laboratory."""

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        has_witness: bool = False,
        every: float = EVERY,
    ) -> None:
        """Build it; a client opens a connection `every` so many seconds."""
        self._environment = dict(environment or {})
        self._pair = Pair()
        with self._pair.building():
            self._pair.serve()
            if has_witness:
                self._environment |= self._pair.serve_api()
            self._client = Client(self._pair, every)

    def close(self) -> None:
        """End everything."""
        self._pair.close()

    def run(self, fault: Fault) -> Result:
        """Run one trial, from a healthy pair to a healthy pair; every frame in between is looked at."""
        pair = self._pair
        begun = time.monotonic()
        active = self._healthy()
        other = next(side for side in pair.sides if side is not active)
        pair.wire.frames.clear()
        self._client.forget()
        since, clock, waited = time.monotonic(), time.time(), other.waited()
        self._begin(fault, active, other)
        if fault in MOVES:
            pair.await_active(other)
            time.sleep(_AFTER + PATIENCE)
        else:
            time.sleep(_QUIET + PATIENCE)
        gap, machine = self._client.missed(since, time.monotonic() - PATIENCE)
        waited = max(0.0, other.waited() - waited)  # a router that was killed has no figures any more
        wire = self._silence(active, other, clock) if fault in MOVES else None
        self._finish(fault, active)
        self._healthy()
        took = time.monotonic() - begun
        return Result(fault, gap, machine, waited, wire, tuple(pair.wire.second_owner()), took)

    def _silence(self, old: Side, new: Side, since: float) -> float:
        """Return how long nobody spoke for the address."""
        frames = sorted(self._pair.wire.frames, key=lambda frame: frame.at)
        came = next(each.at for each in frames if each.at >= since and each.cable == f"cable{new.number}")
        before = (each.at for each in frames if each.at < came and each.cable == f"cable{old.number}")
        return came - max(before, default=since)

    def _healthy(self) -> Side:
        """Have both routers run, one of them active and the other one standing by."""
        pair = self._pair
        for side in pair.sides:
            if side.router is None or side.router.poll() is not None:
                pair.start(side, self._environment)
        return pair.await_healthy()

    def _begin(self, fault: Fault, active: Side, other: Side) -> None:
        pair = self._pair
        steps: dict[Fault, Callable[[], object]] = {
            Fault.TERM: lambda: active.signal(signal.SIGTERM),
            Fault.KILL: lambda: active.signal(signal.SIGKILL),
            Fault.STOP: lambda: active.signal(signal.SIGSTOP),
            Fault.CABLE: lambda: wiring.set_down(pair.gateway, f"cable{active.number}"),
            Fault.WIRE: lambda: pair.isolate(other),
            Fault.POD_NETWORK: lambda: wiring.set_down(pair.network, f"pod{other.number}"),
            Fault.BOTH: lambda: pair.cut_off(active),
            Fault.NODE: lambda: pair.lose_node(active),
            Fault.GATEWAY: pair.restart_gateway,
            Fault.STANDBY: lambda: other.signal(signal.SIGKILL),
            Fault.API: pair.pause_api,
        }
        steps[fault]()

    def _finish(self, fault: Fault, active: Side) -> None:
        pair = self._pair
        if fault in {Fault.TERM, Fault.KILL} and active.router is not None:
            active.router.wait(_SETTLE_SECONDS)
        if fault is Fault.STOP:
            active.signal(signal.SIGCONT)
            time.sleep(_RESUMED)
        elif fault is Fault.NODE:
            pair.restore_node(active)
        elif fault is Fault.API:
            pair.pause_api(goes_on=True)
        else:
            pair.heal()


_HEAD = (
    f"{'':24} {'':6} {'client p50':>10} {'p90':>7} {'p99':>7} {'max':>7} {'wire p50':>9} {'p99':>7}"
    f" {'machine p99':>11} {'a trial':>8}  frames of a second owner"
)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def report(results: Sequence[Result]) -> str:
    """Return a table: a client's gaps, the silence on the wire, and what the machine itself held up."""
    lines = [_HEAD]
    for fault in Fault:
        found = [result for result in results if result.fault is fault]
        if not found:
            continue
        gaps, wires = [each.gap for each in found], [each.wire for each in found if each.wire is not None]
        frames = sum(len(each.second_owner) for each in found)
        wire = [f"{percentile(wires, share):6.3f}s" for share in (0.5, 0.99)] if wires else ["-", "-"]
        lines.append(
            f"{fault.value:24} {len(found):6} {percentile(gaps, 0.5):9.3f}s"
            f" {percentile(gaps, 0.9):6.3f}s {percentile(gaps, 0.99):6.3f}s {max(gaps):6.3f}s"
            f" {wire[0]:>9} {wire[1]:>7} {percentile([each.machine for each in found], 0.99):10.3f}s"
            f" {sum(each.took for each in found) / len(found):7.2f}s  {frames}"
        )
    return "\n".join(lines)


class _Run:
    """As many trials as were asked for, on a new laboratory after one that failed."""

    def __init__(self, *, has_witness: bool) -> None:
        self._has_witness = has_witness
        self._trials: Trials | None = None
        self.results: list[Result] = []
        self.failed = 0

    def once(self, fault: Fault) -> None:
        """Run one trial; what fails is told, and counted."""
        try:
            if self._trials is None:
                self._trials = Trials(has_witness=self._has_witness)
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
    parser.add_argument("--lease", action="store_true", help="with a Lease as witness, and an API server")
    parser.add_argument("--seconds", type=float, help="begin no trial after so long")
    parser.add_argument(
        "--only", help="kinds, separated by commas: " + ", ".join(each.name for each in Fault)
    )
    arguments = parser.parse_args()
    kinds = [Fault[name] for name in arguments.only.split(",")] if arguments.only else list(Fault)
    end = None if arguments.seconds is None else time.monotonic() + arguments.seconds
    run = _Run(has_witness=arguments.lease)
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
