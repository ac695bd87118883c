"""`python -m benchmarks.transparent [--quick] [--instructions]`: TLS by a transparent port and by CONNECT.

Both use the same proxy process and take turns; a short connection is a ClientHello, the origin's answer, a
request and its answer. The result is the ratio of CPU time. With `--instructions` the proxy runs under
cachegrind, once with few operations and once with many: the difference gives the cost of one in user mode.
"""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import contestants
from benchmarks.contestants import ORIGIN_PORT, PROXY_PORT, TRANSPARENT_PORT, Contestant, running
from benchmarks.table import keep_text
from benchmarks.workloads import Tools, Workload, tools

ROUNDS = 9
FEW, MANY = 1_000, 4_000
_VALGRIND = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--trace-children=yes", "--quiet")


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the same origin through the same proxy."""

    workload: Workload
    port: int


CONNECT = Way(Workload("TLS by CONNECT", "churn", "connect-tls", 64, 4_000), PROXY_PORT)
TRANSPARENT = Way(Workload("TLS by a transparent port", "churn", "tls", 64, 4_000), TRANSPARENT_PORT)
WAYS = (CONNECT, TRANSPARENT)


def main() -> None:
    """Measure, print, and keep the table."""
    with tools() as made, made.origin():
        if "--instructions" in sys.argv:
            found = {way: instructions(made, way) / 1000 for way in WAYS}
            unit, name = "thousand instructions in user mode", "transparent_instructions"
            ratio = found[TRANSPARENT] / found[CONNECT]
        else:
            times = cpu_times(made, 1 if "--quick" in sys.argv else ROUNDS)
            found = {way: statistics.median(each) for way, each in times.items()}
            unit, name = "CPU µs, median", "transparent"
            ratio = statistics.median(
                ours / theirs for ours, theirs in zip(times[TRANSPARENT], times[CONNECT], strict=True)
            )
    rows = [f"| | {unit} | of CONNECT |", "|---|---|---|"]
    for way in WAYS:
        beside = "" if way is CONNECT else f"{ratio:.2f}"
        rows.append(f"| {way.workload.name} | {found[way]:.1f} | {beside} |")
    table = "\n".join([*rows, ""])
    print(table)
    keep_text(name, "A TLS connection by a transparent port and by CONNECT", table)


def cpu_times(made: Tools, rounds: int) -> dict[Way, list[float]]:
    """Return the CPU time of a connection in each round; the ways take turns, also in who begins."""
    times: dict[Way, list[float]] = {way: [] for way in WAYS}
    with running(contestants.http_proxy("localhost", transparent=ORIGIN_PORT)) as process:
        for way in WAYS:
            made.attempt(replace(way.workload, operations=400), way.port)
        for number in range(rounds):
            for way in WAYS if number % 2 else reversed(WAYS):
                times[way].append(made.run(way.workload, way.port, process).cost)
    return times


def instructions(made: Tools, way: Way) -> float:
    """Return the instructions of one connection in user mode."""
    few, many = (_counted(made, way, operations) for operations in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def _counted(made: Tools, way: Way, operations: int) -> int:
    """Return the instructions of the busiest process of the proxy."""
    with tempfile.TemporaryDirectory(prefix="bench-cachegrind-") as folder:
        plain = contestants.http_proxy("localhost", transparent=ORIGIN_PORT)

        def command(at: Path) -> list[str]:
            return [*_VALGRIND, f"--cachegrind-out-file={folder}/%p", *plain.command(at)]

        slow = Contestant(plain.name, command, plain.environment, plain.port)
        with running(slow) as process:
            made.run(replace(way.workload, connections=8, operations=operations), way.port, process)
        files = [path.read_text(encoding="ascii", errors="replace") for path in Path(folder).iterdir()]
    return max(
        int(found[1]) for each in files if (found := re.search(r"^summary: (\d+)", each, re.MULTILINE))
    )


if __name__ == "__main__":
    main()
