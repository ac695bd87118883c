"""`make soak`: hours in minutes. Mixed load, reloads, killed workers and dead destinations, then a check.

Both proxies run with two workers. Calm bursts must not lose a single connection, even during reloads; a burst
in which a worker is killed may lose that worker's connections. At the end as many descriptors must be open as
at the beginning, and memory must show no trend. SOAK_SECONDS (600) is the length.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.contestants import (
    ECHO_PORT,
    FORWARD_ECHO_PORT,
    FORWARD_PORT,
    ORIGIN_PORT,
    PROXY_PORT,
    Contestant,
)
from benchmarks.contestants import running as started
from benchmarks.workloads import Tools, Workload, tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
WORKERS, TUNNELS, CONNECTIONS = 2, 40, 64
RELOAD_SECONDS, KILL_SECONDS, SAMPLE_SECONDS = 3.0, 20.0, 5.0
DEAD_PORT = 18003
SETTLE_SECONDS = 12.0  # workers count their descriptors every ten seconds
PIPES = 32  # descriptors of pipes that stay open for the next bulk transfer
MEMORY_GROWTH = 1.10  # of the last third over the middle third

BURSTS = {
    "http": (
        Workload("CONNECT churn", "churn", "connect", CONNECTIONS, 3000),
        Workload("GET, one a connection", "churn", "absolute", CONNECTIONS, 3000),
        Workload("GET, keep-alive", "keepalive", "absolute", CONNECTIONS, 6000),
        Workload("bulk", "down", "connect", 4, 4, 64 << 20),
    ),
    "dns": (
        Workload("churn", "churn", "direct", CONNECTIONS, 3000),
        Workload("bulk, both ways", "both", "direct", 4, 4, 64 << 20),
    ),
}


@dataclass(slots=True)
class Proxy:
    """One proxy under test, with the figures collected from it."""

    name: str
    port: int
    echo_port: int
    admin_port: int
    rules: Path
    tunnels: list[socket.socket] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    operations: int = 0
    reloads: int = 0
    kills: int = 0
    lost_in_kills: int = 0
    tunnels_lost_in_kills: int = 0

    def write_rules(self, number: int) -> None:
        """Change the file without changing what is allowed."""
        if self.name == "http":
            text = f"!host{number}.example.com\n127.0.0.0/8\n"
        else:
            text = (
                f"{FORWARD_PORT} 127.0.0.1 {ORIGIN_PORT}\n{FORWARD_ECHO_PORT} 127.0.0.1 {ECHO_PORT}\n"
                f"18083 127.0.0.1 {DEAD_PORT}\n{18084 + number % 2} 127.0.0.1 {ORIGIN_PORT}\n"
            )
        fresh = self.rules.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.rules)

    def ask(self, path: str) -> str:
        """Return the answer of the administration endpoint."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        lines = (
            line for line in self.ask("/metrics").splitlines() if line.startswith(f"egress_router_{name}")
        )
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def descriptors(self) -> float:
        """Return how many are open, without idle connections to the origin (up to one for each client)."""
        idle = _established(ORIGIN_PORT) if self.name == "http" else 0
        return self.metric("process_open_fds") - idle

    def workers(self) -> list[int]:
        """Return the process ids of the workers that serve."""
        status: dict[str, list[dict[str, int]]] = json.loads(self.ask("/status"))
        return [each["pid"] for each in status["workers"] if each["serves"]]

    def open_tunnel(self) -> socket.socket:
        """Open a connection to the echo server through the proxy."""
        sock = socket.create_connection(("127.0.0.1", self.echo_port), 10)
        if self.name == "http":
            sock.sendall(f"CONNECT 127.0.0.1:{ECHO_PORT} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(4096)
            if b" 200" not in head:
                raise SystemExit(f"a tunnel was refused: {head!r}")
        return sock

    def check_tunnels(self) -> int:
        """Echo a byte through every long tunnel; reopen those that are gone, and return how many."""
        gone = 0
        for index, sock in enumerate(self.tunnels):
            try:
                sock.sendall(b"x")
                alive = sock.recv(1) == b"x"
            except OSError:
                alive = False
            if not alive:
                gone += 1
                sock.close()
                self.tunnels[index] = self.open_tunnel()
        return gone


def main() -> int:
    """Run, print the results, and return 0 if they are right."""
    with (
        tools() as made,
        made.origin(),
        tempfile.TemporaryDirectory(prefix="soak-") as folder,
        _proxies(Path(folder)) as proxies,
    ):
        for proxy in proxies:
            proxy.tunnels = [proxy.open_tunnel() for _ in range(TUNNELS)]
            for workload in BURSTS[proxy.name]:
                made.attempt(workload, _port(proxy, workload))
        time.sleep(SETTLE_SECONDS)
        baseline = {proxy.name: proxy.descriptors() for proxy in proxies}
        problems = _soak(made, proxies)
        problems += _balance(proxies, baseline)
        for proxy in proxies:
            for sock in proxy.tunnels:
                sock.close()
    for problem in problems:
        print(f"PROBLEM: {problem}")
    print("No problem." if not problems else f"{len(problems)} problems.")
    return 1 if problems else 0


@contextlib.contextmanager
def _proxies(folder: Path) -> Iterator[list[Proxy]]:
    http_proxy = Proxy("http", PROXY_PORT, PROXY_PORT, 18097, folder / "http.rules")
    dns_proxy = Proxy("dns", FORWARD_PORT, FORWARD_ECHO_PORT, 18098, folder / "dns.rules")
    with contextlib.ExitStack() as stack:
        for proxy, mode, variable in (
            (http_proxy, "http-proxy", "EGRESS_HTTP_PROXY_DESTINATION_FILE"),
            (dns_proxy, "dns-proxy", "EGRESS_DNS_PROXY_DESTINATION_FILE"),
        ):
            proxy.write_rules(0)
            environment = {
                variable: str(proxy.rules),
                "EGRESS_HTTP_PROXY_PORT": str(PROXY_PORT),
                "EGRESS_WORKERS": str(WORKERS),
                "EGRESS_ADMIN_PORT": str(proxy.admin_port),
                "EGRESS_LOG_LEVEL": "error",
                "EGRESS_MAX_CONNECTIONS": "4000",
                "PYTHONPATH": str(Path(__file__).parents[1]),
            }
            stack.enter_context(started(Contestant(proxy.name, _command(mode), environment, proxy.port)))
            _await_workers(proxy, set())
        yield [http_proxy, dns_proxy]


def _command(mode: str) -> Callable[[Path], list[str]]:
    return lambda _: [sys.executable, "-m", "egress_router", mode]


def _soak(made: Tools, proxies: list[Proxy]) -> list[str]:
    problems: list[str] = []
    begun = time.monotonic()
    next_reload, next_kill, next_sample = RELOAD_SECONDS, KILL_SECONDS, 0.0
    bursts = {proxy.name: itertools.cycle(BURSTS[proxy.name]) for proxy in proxies}
    number = 0
    while (passed := time.monotonic() - begun) < SECONDS:
        number += 1
        proxy = proxies[number % len(proxies)]
        if passed >= next_reload:
            next_reload = passed + RELOAD_SECONDS
            proxy.write_rules(number)
            proxy.reloads += 1
        if passed >= next_sample:
            next_sample = passed + SAMPLE_SECONDS
            for each in proxies:
                each.memory.append(each.metric("process_resident_memory_bytes") / (1 << 20))
        workload = next(bursts[proxy.name])
        if passed >= next_kill and workload.mode == "churn":
            next_kill = passed + KILL_SECONDS
            problems += _kill_burst(made, proxy, workload)
            continue
        problems += _calm_burst(made, proxy, workload)
    return problems


def _calm_burst(made: Tools, proxy: Proxy, workload: Workload) -> list[str]:
    report = made.attempt(workload, _port(proxy, workload))
    proxy.operations += int(report["operations"])
    problems = []
    if report["errors"]:
        problems.append(
            f"{proxy.name}, {workload.name}: {report['errors']:.0f} operations failed in a calm burst"
        )
    gone = proxy.check_tunnels()
    if gone:
        problems.append(f"{proxy.name}: {gone} long tunnels were lost without a reason")
    return problems


def _kill_burst(made: Tools, proxy: Proxy, workload: Workload) -> list[str]:
    """Kill a worker in the middle of a burst: this may cost its connections, but nothing afterwards."""
    before = set(proxy.workers())
    victim = random.choice(sorted(before))
    with made.begun(workload, _port(proxy, workload)) as burst:
        time.sleep(0.1)
        os.kill(victim, signal.SIGKILL)
        report = burst()
    proxy.kills += 1
    proxy.operations += int(report["operations"])
    proxy.lost_in_kills += int(report["errors"])
    proxy.tunnels_lost_in_kills += proxy.check_tunnels()
    _await_workers(proxy, {victim})
    allowed = CONNECTIONS * 2
    if report["errors"] > allowed:
        return [f"{proxy.name}: a killed worker cost {report['errors']:.0f} operations, more than {allowed}"]
    return []


def _await_workers(proxy: Proxy, gone: set[int]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            serving = set(proxy.workers())
            if len(serving) == WORKERS and not serving & gone:
                return
        time.sleep(0.1)
    raise SystemExit(f"{proxy.name}: {WORKERS} workers did not come up")


def _balance(proxies: list[Proxy], baseline: dict[str, float]) -> list[str]:
    problems = []
    time.sleep(SETTLE_SECONDS)
    for proxy in proxies:
        proxy.check_tunnels()
        descriptors = proxy.descriptors()
        third = len(proxy.memory) // 3
        middle, last = proxy.memory[third : 2 * third], proxy.memory[2 * third :]
        growth = statistics.median(last) / statistics.median(middle) if middle else 1.0
        print(
            f"{proxy.name}: {proxy.operations:,} operations, {proxy.reloads} reloads,"
            f" {proxy.kills} workers killed (cost {proxy.lost_in_kills} operations"
            f" and {proxy.tunnels_lost_in_kills} long tunnels),"
            f" descriptors {baseline[proxy.name]:.0f} -> {descriptors:.0f},"
            f" memory {proxy.memory[0]:.0f} -> {proxy.memory[-1]:.0f} MiB"
            f" (last third {growth:.3f} of the middle)"
        )
        if descriptors > baseline[proxy.name] + PIPES:
            problems.append(
                f"{proxy.name}: descriptors leak: {baseline[proxy.name]:.0f} -> {descriptors:.0f}"
            )
        if growth > MEMORY_GROWTH:
            problems.append(f"{proxy.name}: memory grows: x {growth:.3f}")
        restarts = proxy.metric("worker_restarts_total")
        if restarts != proxy.kills:
            problems.append(f"{proxy.name}: {restarts:.0f} restarts for {proxy.kills} killed workers")
    return problems


def _established(port: int) -> int:
    """Return how many connections from this machine to a port are open (proc(5), /proc/net/tcp)."""
    rows = (row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


def _port(proxy: Proxy, workload: Workload) -> int:
    return proxy.echo_port if workload.echoes else proxy.port


if __name__ == "__main__":
    sys.exit(main())
