"""Counts the instructions of a worker in user mode for one operation: other load hardly changes them.

    python -m benchmarks.instructions                 # all cases
    python -m benchmarks.instructions connect get     # some of them

Valgrind's cachegrind counts a worker twice, with few operations and with many; the difference is free of the
cost of start and end. There is no supervisor: a worker that is fifty times slower would look dead to it.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.contestants import FORWARD_ECHO_PORT, FORWARD_PORT, PROXY_PORT, answers, dns_proxy, http_proxy
from benchmarks.workloads import Tools, Workload, tools
from egress_router.dns_proxy import server as dns_server
from egress_router.http_proxy import server as http_server
from egress_router.metrics import Registry
from egress_router.relay.loop import PollerLoop
from egress_router.service.connection_limiter import ConnectionLimiter
from egress_router.service.mode import WorkerContext
from egress_router.service.sockets import listen
from egress_router.settings.dns_proxy import read_dns_proxy
from egress_router.settings.http_proxy import read_http_proxy

if TYPE_CHECKING:
    import socket

_START_SECONDS = 300.0
_SLOWNESS = 100
_MODES = {"http": http_proxy(), "dns": dns_proxy()}
# The mode, its port, and its workload.
CASES: dict[str, tuple[str, int, Workload]] = {
    "connect": ("http", PROXY_PORT, Workload("CONNECT, GET, close", "churn", "connect", 8, 0)),
    "keepalive": ("http", PROXY_PORT, Workload("GET, keep-alive", "keepalive", "absolute", 8, 0)),
    "get": ("http", PROXY_PORT, Workload("GET, one a connection", "churn", "absolute", 8, 0)),
    "forward": ("dns", FORWARD_PORT, Workload("forwarded connection", "churn", "direct", 8, 0)),
    "ping": ("dns", FORWARD_ECHO_PORT, Workload("round trip in it", "ping", "direct", 8, 0)),
}


def serve(name: str) -> None:
    """Run a worker until SIGTERM, with settings from the environment."""
    _slow_down()
    loop = PollerLoop()
    registry = Registry()
    context = WorkerContext(loop, loop.poller, registry, ConnectionLimiter(registry, 8000, None), 1.0)
    if name == "http":
        http = http_server.mode(read_http_proxy(os.environ))
        rules = http.parse("RULES", Path("rules").read_text(encoding="ascii"))
        loop.call_soon(lambda: http.build(context, rules).listen(_sockets(http.ports(rules))))
    else:
        dns = dns_server.mode(read_dns_proxy(os.environ))
        lines = dns.parse("RULES", os.environ["EGRESS_DNS_PROXY_DESTINATION"])
        loop.call_soon(lambda: dns.build(context, lines).listen(_sockets(dns.ports(lines))))
    loop.call_later(1.0, gc.freeze)
    gc.set_threshold(10_000)
    loop.add_signal_handler(signal.SIGTERM, loop.stop)
    loop.run_forever()


def _slow_down() -> None:
    """Let time pass as slowly as the worker runs: otherwise its timers would fire too often."""
    real = time.monotonic
    time.monotonic = lambda: real() / _SLOWNESS


def _sockets(ports: frozenset[int]) -> dict[int, socket.socket]:
    return {port: listen(port, 1)[0] for port in ports}


def counted(name: str, port: int, workload: Workload, made: Tools) -> int:
    """Return how many instructions the worker took for a workload, including its start and end."""
    with tempfile.TemporaryDirectory(prefix="instructions-") as text:
        folder = Path(text)
        _MODES[name].command(folder)  # writes the files that the settings name
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "valgrind", "--tool=cachegrind", "--cache-sim=no"),
                *(f"--cachegrind-out-file={folder}/counts", "--quiet"),
                *(sys.executable, "-m", "benchmarks.instructions", "--serve", name),
            ],
            env={**os.environ, **_MODES[name].environment},
            cwd=folder,
            stderr=subprocess.DEVNULL,
        )
        try:
            _await(process, port)
            if made.attempt(workload, port)["errors"]:
                raise SystemExit(f"{workload.name}: operations failed")
            process.terminate()
            process.wait(_START_SECONDS)
        finally:
            process.kill()
            process.wait()
        lines = (folder / "counts").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("summary:"))


def _await(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not answers(port, 10.0):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"no proxy serves on port {port}")


def main() -> None:
    """Print the thousands of instructions of one operation, for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="default: all")
    parser.add_argument("--few", type=int, default=2_000)
    parser.add_argument("--many", type=int, default=6_000)
    parser.add_argument("--serve", choices=[*_MODES], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    print(f"Python {sys.version.split()[0]}, thousand instructions an operation", flush=True)
    with tools() as made, made.origin():
        for name, port, workload in (CASES[case] for case in given.cases or CASES):
            few, many = (
                counted(name, port, replace(workload, operations=operations), made)
                for operations in (given.few, given.many)
            )
            each = (many - few) / (given.many - given.few) / 1000
            print(f"{workload.name:24} {each:7.1f}", flush=True)


if __name__ == "__main__":
    main()
