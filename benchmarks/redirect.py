"""Redirect mode: set-up time, memory and cost of a connection for 1, 100, 10,000 and 30,000 lines.

Beside it the layout of the original, one nftables rule a line, in the same laboratory and the same run.
Run as root: `make bench-redirect`.
"""

from __future__ import annotations

import os
import resource
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.table import keep_text
from egress_router.lab.host import is_allowed, reenter
from egress_router.lab.network import ROUTER, SOURCE, Laboratory

if TYPE_CHECKING:
    from egress_router.lab.host import Host

SIZES = (1, 100, 10_000, 30_000)
LINEAR_SIZES = (1, 100, 4_500)
ROUNDS, CONNECTIONS = 9, 300
TARGET = "203.0.113.25"
FIRST_PORT = 10_000


def main() -> None:
    """Measure every size and layout, print the table and keep it in `results/`."""
    if not is_allowed():
        reenter("benchmarks.redirect")
    heads = (
        "layout",
        "lines",
        "set-up s",
        "MiB",
        "connect to the first µs",
        "to the last µs",
        "last / first",
    )
    rows = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for layout, sizes, set_up in (("map", SIZES, ours), ("one rule a line", LINEAR_SIZES, linear)):
        for lines in sizes:
            with Laboratory() as lab:
                lab.serve(["80"])
                seconds, mebibytes = set_up(lab, lines)
                first, last = costs(lab, lines)
            cells = (
                f"{seconds:.2f}",
                f"{mebibytes:.0f}",
                f"{first:.0f}",
                f"{last:.0f}",
                f"{last / first:.2f}",
            )
            rows.append(f"| {layout} | {lines:,} | {' | '.join(cells)} |")
            print(rows[-1], flush=True)
    keep_text("redirect", "Redirect mode by number of lines", "\n".join([*rows, ""]))


def ours(lab: Laboratory, lines: int) -> tuple[float, float]:
    """Return the seconds of a second run, which probes for nothing, and its peak memory with its children."""
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
    """Return the MiB of a process and its children now, what they share counted once (PSS)."""
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
    """Set the network up, and the rules as the original does, one rule a line in one nft call."""
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
    """Return the median microseconds of a connection to the first and to the last line; rounds take turns."""
    first: list[float] = []
    last: list[float] = []
    if lab.ask_tcp(lab.client, ROUTER, FIRST_PORT + lines - 1).source != SOURCE:
        raise SystemExit("the last line does not work")
    for _ in range(ROUNDS):
        first.append(connect_many(lab.client, FIRST_PORT))
        last.append(connect_many(lab.client, FIRST_PORT + lines - 1))
    return statistics.median(first), statistics.median(last)


def connect_many(client: Host, port: int) -> float:
    """Return the median microseconds of one connect, over many."""
    sockets = [client.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(CONNECTIONS)]
    times = []
    for wire in sockets:
        begun = time.perf_counter()
        wire.connect((ROUTER, port))
        times.append(time.perf_counter() - begun)
        wire.close()
    return statistics.median(times) * 1e6


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    main()
