"""`python -m benchmarks.changing [SECONDS]`: a name in redirect mode that changes 100 times a minute.

A real router follows a real name server, while 500 connections a second begin and 200 are held open, each of
which has to get its own bytes back until the end. None may fail, and none may move to another server. Run as
root, or where users may build namespaces.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from benchmarks.table import keep_text
from egress_router.lab.host import is_allowed, reenter
from egress_router.lab.network import ROUTER, SERVERS, Laboratory

if TYPE_CHECKING:
    from collections.abc import Callable

NAME, PORT = "db.example.com", 443
SECONDS, RATE, HELD = 60.0, 500, 200
# The name server answers each query with one of these, by the query's random id.
ANSWERS = (SERVERS[:2], SERVERS[1:2], SERVERS[1:], SERVERS, SERVERS[2:4], SERVERS[3:])
ENVIRONMENT = {"EGRESS_DESTINATION": f"{PORT} tcp {NAME}\n", "EGRESS_DNS_TTL_FLOOR": "0.4"}


def main() -> None:
    """Measure, print and keep the table; exit with 1 if something failed."""
    if not is_allowed():
        reenter("benchmarks.changing", *sys.argv[1:])
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    changes, report = measured(seconds)
    failed, broken = sum(report["failed"].values()), sum(report["broken"].values())
    row = (
        changes,
        sum(report["answered"].values()),
        failed,
        HELD,
        broken,
        report["p50_ms"],
        report["p99_ms"],
    )
    heads = "changes | connections | failed | held | broken or moved | p50 ms | p99 ms | slowest ms"
    table = f"| {heads} |\n|{'---|' * 8}\n| {' | '.join(map(str, (*row, report['slowest_ms'])))} |\n"
    print(table, report["failed"] or "", report["broken"] or "")
    keep_text("redirect_changing", f"A name that changes, for {seconds:.0f} s", table)
    if failed or broken:
        raise SystemExit(1)


def measured(seconds: float) -> tuple[int, dict[str, dict[str, int]]]:
    """Return how often the rules changed, and what `lab.crowd` reports."""
    with Laboratory() as lab:
        lab.serve([str(PORT)])
        lab.name({NAME: {"turns": [list(each) for each in ANSWERS], "ttl": 0}})
        # A port of a closed connection stays in use for a minute.
        lab.client.run("sh", "-c", "echo 1024 65535 >/proc/sys/net/ipv4/ip_local_port_range")
        with lab.staying(ENVIRONMENT):
            lab.ask_tcp(lab.client, ROUTER, PORT)
            changes = transactions(lab)
            program = [
                sys.executable,
                "-m",
                "egress_router.lab.crowd",
                ROUTER,
                str(PORT),
                str(RATE),
                str(HELD),
            ]
            crowd = lab.client.start(program, stdin=subprocess.PIPE)
            time.sleep(seconds)
            output, errors = crowd.communicate(timeout=60)
            if crowd.returncode:
                raise SystemExit(errors)
            report: dict[str, dict[str, int]] = json.loads(output)
            return changes(), report


def transactions(lab: Laboratory) -> Callable[[], int]:
    """Return a function that says how often the router's rules have changed since this call."""
    process = lab.router.start(["nft", "monitor"])
    seen: list[str] = []
    lines = process.stdout or ()
    threading.Thread(target=lambda: seen.extend(lines), daemon=True).start()
    return lambda: sum("new generation" in line for line in seen)


if __name__ == "__main__":
    main()
