"""Counts the instructions in user mode that an operation takes of a worker: other load hardly changes them.

    python -m benchmarks.instructions                 # all cases
    python -m benchmarks.instructions connect get     # some of them

Valgrind's cachegrind counts a worker twice, with few operations and with many. The difference leaves out what
starting and ending cost.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.contestants import (
    FORWARD_ECHO_PORT,
    FORWARD_PORT,
    PROXY_PORT,
    Contestant,
    answers,
    dns_proxy,
    http_proxy,
)
from benchmarks.workloads import Tools, Workload, tools

_START_SECONDS, _END_SECONDS = 120.0, 60.0
# The proxy, its port, and what is asked of it.
CASES: dict[str, tuple[Contestant, int, Workload]] = {
    "connect": (http_proxy(), PROXY_PORT, Workload("CONNECT, GET, close", "churn", "connect", 8, 0)),
    "keepalive": (http_proxy(), PROXY_PORT, Workload("GET, keep-alive", "keepalive", "absolute", 8, 0)),
    "get": (http_proxy(), PROXY_PORT, Workload("GET, one a connection", "churn", "absolute", 8, 0)),
    "forward": (dns_proxy(), FORWARD_PORT, Workload("forwarded connection", "churn", "direct", 8, 0)),
    "ping": (dns_proxy(), FORWARD_ECHO_PORT, Workload("round trip in it", "ping", "direct", 8, 0)),
}


def counted(proxy: Contestant, port: int, workload: Workload, made: Tools) -> int:
    """Return how many instructions the worker took for a workload, its own start and end included."""
    with tempfile.TemporaryDirectory(prefix="instructions-") as text:
        folder = Path(text)
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "valgrind", "--tool=cachegrind", "--cache-sim=no"),
                *("--trace-children=yes", f"--cachegrind-out-file={folder}/%p.out", "--quiet"),
                *proxy.command(folder),
            ],
            env={**os.environ, **proxy.environment},
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _await(process, proxy.port)
            worker = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("ascii").split()[0]
            if made.attempt(workload, port)["errors"]:
                raise SystemExit(f"{workload.name}: operations failed")
            process.terminate()
            process.wait(_END_SECONDS)
        finally:
            process.kill()
            process.wait()
        lines = (folder / f"{worker}.out").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("summary:"))


def _await(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not answers(port, 10.0):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"no proxy serves on port {port}")


def main() -> None:
    """Print thousand instructions for each operation of each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="default: all")
    parser.add_argument("--few", type=int, default=2_000)
    parser.add_argument("--many", type=int, default=6_000)
    given = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, thousand instructions an operation")
    with tools() as made, made.origin():
        for proxy, port, workload in (CASES[name] for name in given.cases or CASES):
            few, many = (
                counted(proxy, port, replace(workload, operations=operations), made)
                for operations in (given.few, given.many)
            )
            each = (many - few) / (given.many - given.few) / 1000
            print(f"{workload.name:24} {each:7.1f}", flush=True)


if __name__ == "__main__":
    main()
