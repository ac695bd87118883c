"""Redirect mode: the cost of many lines, of a connection, of names, source ports and an egress policy.

`lines`: set-up time, memory and cost of a connection for 1, 100, 10,000 and 30,000 lines, beside the layout
of the original (one nftables rule for each line) in the same laboratory and the same run. `cost`: busy time
of the whole machine, beside plain routing and haproxy. `names`: a connection among many lines, and the CPU
time of a change. `ports`: connections at a steady rate to one destination, which keeps TIME_WAIT. `many`:
100,000 connections at once to one destination, over two source addresses. `policy`: the cost of putting
10,000 entries of an egress policy in force. `floor`: what the kernel needs for NAT, step by step, also on a
busy machine.
Run as root: `make bench-redirect`, or `python -m benchmarks.redirect` with the names of the parts.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import many_connections, many_entries, nat_floor
from benchmarks.table import keep_text
from benchmarks.topology import (
    FORWARDED,
    NAMED,
    OTHERS,
    REDIRECTED,
    ROUTED,
    Topology,
    Way,
)
from egress_router.lab.host import is_allowed, reenter
from egress_router.lab.network import ROUTER, SOURCE, Laboratory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.lab.host import Host

SIZES = (1, 100, 10_000, 30_000)
LINEAR_SIZES = (1, 100, 4_500)
ROUNDS, WARM_UP, CONNECTIONS = 9, 2, 300
TARGET = "203.0.113.25"
FIRST_PORT = 10_000
# Connections a second, and how many others are held open meanwhile.
RATES = ((1000, 0), (200, 6000))
MORE_LINES = (0, 1_000, 30_000)
PACED_SECONDS = 90
ONCE_ROUND = 65_000


def main() -> None:
    """Measure what the command line names, or all; print the tables and keep them in `results/`."""
    if not is_allowed():
        reenter("benchmarks.redirect", *sys.argv[1:])
    parts = {
        "lines": ("redirect", "Redirect mode by number of lines", by_lines),
        "cost": ("redirect_cost", "What a connection costs the whole machine", by_way),
        "names": ("redirect_names", "Names beside addresses, and a change of 1,000 names", with_names),
        "ports": ("redirect_ports", "Connections at a steady rate to one destination", at_a_rate),
        "many": (
            "redirect_many",
            "Connections at once to one destination, `from *`",
            many_connections.at_once,
        ),
        "policy": ("redirect_policy", "An egress policy of 10,000 entries", many_entries.in_force),
        "floor": ("redirect_floor", "What the kernel needs for NAT, step by step", nat_floor.by_step),
    }
    for name in sys.argv[1:] or parts:
        file, title, measure = parts[name]
        rows = []
        for row in measure():
            rows.append(f"| {' | '.join(row)} |")
            print(rows[-1], flush=True)
            if len(rows) == 1:
                rows.append("|" + "---|" * len(row))
        keep_text(file, title, "\n".join([*rows, ""]))


def by_lines() -> Iterator[tuple[str, ...]]:
    """Yield head and rows: the cost of set-up and of connections, by number of lines."""
    connects = ("connect to the first µs", "to the last µs", "last / first")
    yield "layout", "lines", "set-up s", "MiB", *connects
    for layout, sizes, set_up in (("map", SIZES, ours), ("one rule a line", LINEAR_SIZES, linear)):
        for lines in sizes:
            with Laboratory() as lab:
                lab.serve(["80"])
                seconds, mebibytes = set_up(lab, lines)
                first, last = costs(lab, lines)
            yield (
                layout,
                f"{lines:,}",
                f"{seconds:.2f}",
                f"{mebibytes:.0f}",
                f"{first:.0f}",
                f"{last:.0f}",
                f"{last / first:.2f}",
            )


def by_way() -> Iterator[tuple[str, ...]]:
    """Yield head and rows: busy time of the whole machine for one operation, less that of plain routing."""
    yield (
        "",
        "short connection µs",
        "round trip µs",
        "round trip p50 µs",
        "of haproxy: connection",
        "round trip",
    )
    churn: dict[Way, list[float]] = {}
    ping: dict[Way, list[float]] = {}
    alone: dict[Way, list[float]] = {}
    ways = (ROUTED, nat_floor.BARE, nat_floor.FREE, REDIRECTED, NAMED, FORWARDED)
    with Topology() as topology:
        topology.remember_closed(does=False)
        for _ in range(ROUNDS):
            for way in ways:
                topology.take(way)
                churn.setdefault(way, []).append(topology.run(way, "churn", 64, 8_000).busy)
                ping.setdefault(way, []).append(topology.run(way, "ping", 64, 40_000).busy)
                alone.setdefault(way, []).append(topology.run(way, "ping", 1, 5_000).p50)
    floor = statistics.median(churn[ROUTED]), statistics.median(ping[ROUTED])
    theirs = statistics.median(churn[FORWARDED]) - floor[0], statistics.median(ping[FORWARDED]) - floor[1]
    yield (
        ROUTED.name,
        f"{floor[0]:.1f} in all",
        f"{floor[1]:.1f} in all",
        f"{statistics.median(alone[ROUTED]):.1f}",
    )
    for way in ways[1:]:
        more = statistics.median(churn[way]) - floor[0], statistics.median(ping[way]) - floor[1]
        yield (
            way.name,
            f"{more[0]:.1f}",
            f"{more[1]:.2f}",
            f"{statistics.median(alone[way]):.1f}",
            f"{more[0] / theirs[0]:.2f}",
            f"{more[1] / theirs[1]:.2f}",
        )


def with_names() -> Iterator[tuple[str, ...]]:
    """Yield head and rows: a connection by address and by name among more lines, and the cost of a change.

    Both are in the same rules and take turns. The kernel frees the previous rules in the background, so the
    first rounds do not count.
    """
    yield "more lines", "connection by address µs", "by name µs", "by name / by address"
    with Topology() as topology:
        topology.remember_closed(does=False)
        for more in MORE_LINES:
            topology.take(NAMED, more)
            rounds = []
            for number in range(WARM_UP + ROUNDS):
                ways = (REDIRECTED, NAMED) if number % 2 else (NAMED, REDIRECTED)
                times = {way: topology.run(way, "churn", 1, 2_000).p50 for way in ways}
                rounds.append((times[REDIRECTED], times[NAMED]))
            counted = rounds[WARM_UP:]
            ratio = statistics.median(by_name / by_address for by_address, by_name in counted)
            medians = (statistics.median(each) for each in zip(*counted, strict=True))
            yield f"{more:,}", *(f"{each:.1f}" for each in medians), f"{ratio:.2f}"
        python, nft = relaid(topology.router)
    yield "1,000 names lose one of 16 addresses", f"{python:.0f} ms CPU in Python", f"{nft:.0f} ms in nft", ""


def relaid(host: Host) -> tuple[float, float]:
    """Return the CPU milliseconds that a change of 1,000 names takes, in Python and in nft."""
    output = host.run(sys.executable, "-m", "benchmarks.relaid", str(ROUNDS)).stdout.split()
    return float(output[0]), float(output[1])


def at_a_rate() -> Iterator[tuple[str, ...]]:
    """Yield head and rows: latencies and retransmitted SYNs, while the server keeps TIME_WAIT."""
    yield (
        "",
        "rate",
        "held",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "SYN sent again",
        "refused by timestamp",
        "failed",
    )
    for rate, held in RATES:
        for way in (ROUTED, REDIRECTED):
            with Topology() as topology:
                topology.take(way)
                with topology.held(way, held) if held else contextlib.nullcontext():
                    # Use up source ports until the next ones in turn are those that are held.
                    for other in topology.others(way) if held else ():
                        topology.run(other, "churn", 64, ONCE_ROUND // len(OTHERS))
                    outcome = topology.run(way, "churn", 4096, rate * PACED_SECONDS, rate)
            milliseconds = (f"{each / 1000:.1f}" for each in (outcome.p50, outcome.p99, outcome.p999))
            refused = str(outcome.refused_by_timestamp)
            again = str(outcome.syn_retransmissions)
            yield way.name, str(rate), str(held), *milliseconds, again, refused, str(outcome.errors)


def ours(lab: Laboratory, lines: int) -> tuple[float, float]:
    """Return the seconds of a second run, which does not probe, and its peak MiB with its children."""
    text = "".join(f"{FIRST_PORT + number} tcp {TARGET} 80\n" for number in range(lines))
    with tempfile.NamedTemporaryFile("w", suffix=".rules") as file:
        file.write(text)
        file.flush()
        environment = {"EGRESS_ROUTER_MODE": "init", "EGRESS_DESTINATION_FILE": file.name}
        lab.finish_setup(environment)
        process = lab.setup(environment)
        begun = time.perf_counter()
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, tree_memory(process.pid))
            time.sleep(0.002)
        seconds = time.perf_counter() - begun
        if process.returncode:
            raise SystemExit(process.communicate()[1])
        return seconds, peak


def tree_memory(pid: int) -> float:
    """Return the present MiB of a process and its children; shared memory counts once (PSS)."""
    total = 0.0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) / 1024
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
            total += tree_memory(int(child))
    except OSError:
        pass  # it has just ended
    return total


def linear(lab: Laboratory, lines: int) -> tuple[float, float]:
    """Set up the network, and the rules as in the original: one for each line, in one nft call.

    Returns seconds, and the peak MiB of any child process so far.
    """
    lab.finish_setup({"EGRESS_ROUTER_MODE": "init", "EGRESS_DESTINATION": f"{FIRST_PORT} tcp {TARGET} 80"})
    rules = "".join(
        f"    iifname eth0 tcp dport {FIRST_PORT + number} dnat ip to {TARGET}:80\n"
        for number in range(lines)
    )
    text = (
        "table inet original {\n  chain pre { type nat hook prerouting priority dstnat - 10;\n"
        + rules
        + "  }\n}\n"
    )
    lab.router.run("nft", "flush", "chain", "inet", "egress_router", "destinations")
    begun = time.perf_counter()
    lab.router.run("nft", "-f", "-", input=text)
    seconds = time.perf_counter() - begun
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def costs(lab: Laboratory, lines: int) -> tuple[float, float]:
    """Return the median microseconds of a connection to the first and to the last line, in turns."""
    first: list[float] = []
    last: list[float] = []
    if lab.ask_tcp(lab.client, ROUTER, FIRST_PORT + lines - 1).source != SOURCE:
        raise SystemExit("the last line does not work")
    for _ in range(ROUNDS):
        first.append(connect_many(lab.client, FIRST_PORT))
        last.append(connect_many(lab.client, FIRST_PORT + lines - 1))
    return statistics.median(first), statistics.median(last)


def connect_many(client: Host, port: int) -> float:
    """Return the median microseconds of one connect, of many."""
    sockets = [client.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(CONNECTIONS)]
    times = []
    for sock in sockets:
        begun = time.perf_counter()
        sock.connect((ROUTER, port))
        times.append(time.perf_counter() - begun)
        sock.close()
    return statistics.median(times) * 1e6


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    main()
