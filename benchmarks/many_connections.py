"""Many connections at once to one destination, by `from *` with two source addresses.

One address has 64,512 ports towards one destination, which is not enough. A real router in the laboratory's
network redirects the connections; a byte that comes back proves that a connection is alive.
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Self

from egress_router.lab import wiring
from egress_router.lab.network import GATEWAY, ROUTER, SOURCE, Laboratory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.lab.host import Host

CONNECTIONS = 100_000
SECOND = "192.168.12.100"
SERVER, PORT = "203.0.113.25", 9000
CLIENTS = tuple(f"10.128.0.{last}" for last in range(20, 28))
ENVIRONMENT = {
    "EGRESS_SOURCE": f"{SOURCE}/24,{SECOND}/24",
    "EGRESS_GATEWAY": GATEWAY,
    "EGRESS_DESTINATION": f"{PORT} tcp {SERVER} from *\n",
}
_SPARE = 100  # descriptors that a process needs for everything else
# The kernel spreads connections over processes that share a port by a hash, which is not even.
_UNEVEN = 0.7
_KIBIBYTES = 12  # of kernel and process memory for both ends of one connection, with a margin
_STATUS = (
    "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9797/status', timeout=60).read().decode())"
)


def at_once() -> Iterator[tuple[str, ...]]:
    """Yield head and rows: how many were open at once, by source address, and what the router reports."""
    _require_room()
    yield (
        "to one destination",
        "opened",
        "failed",
        "echo a byte",
        "the server sees",
        "/status says",
    )
    with Laboratory() as lab, contextlib.ExitStack() as running:
        _prepare(lab)
        running.enter_context(lab.staying(ENVIRONMENT))
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _SPARE
        processes = -(-CONNECTIONS // int(descriptors * _UNEVEN))
        servers = [running.enter_context(_Held(lab.outside, "serve", SERVER)) for _ in range(processes)]
        for each in servers:
            each.read()
        begun = time.monotonic()
        share = CONNECTIONS // len(CLIENTS)
        clients = [running.enter_context(_Held(lab.client, "open", each, ROUTER, share)) for each in CLIENTS]
        opened, failed = (
            sum(each) for each in zip(*(map(int, each.read().split()) for each in clients), strict=True)
        )
        seconds = time.monotonic() - begun
        alive = sum(int(each.ask()) for each in clients)
        by_source: Counter[str] = Counter()
        for each in servers:
            by_source.update(json.loads(each.ask()))
        shown = _source_ports(lab.router, opened)
    yield (
        f"{CONNECTIONS:,} in {seconds:.0f} s",
        f"{opened:,}",
        f"{failed:,}",
        f"{alive:,}",
        _listed(by_source),
        _listed(shown),
    )


def _require_room() -> None:
    """Check that this machine can hold the connections.

    Raises:
        SystemExit: it cannot.
    """
    entries = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text(encoding="ascii"))
    memory = next(
        int(line.split()[1])
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        if line.startswith("MemAvailable")
    )
    if entries < CONNECTIONS * 1.1:
        raise SystemExit(
            f"connection tracking holds {entries:,} entries here (net.netfilter.nf_conntrack_max)"
        )
    if memory < CONNECTIONS * _KIBIBYTES:
        raise SystemExit(
            f"{memory // 1024} MiB of memory are free; {CONNECTIONS * _KIBIBYTES // 1024} are needed"
        )


def _prepare(lab: Laboratory) -> None:
    wiring.address(lab.client, "eth0", *(f"{each}/24" for each in CLIENTS))
    for host in (lab.client, lab.outside):
        host.run("sh", "-c", "echo 1024 65535 >/proc/sys/net/ipv4/ip_local_port_range")


class _Held:
    """One process of `benchmarks.held`, stopped after the block."""

    def __init__(self, host: Host, role: str, *words: object) -> None:
        port = [str(PORT)] if role == "serve" else []
        given = (
            [*map(str, words[:2]), str(PORT), *map(str, words[2:])]
            if role == "open"
            else list(map(str, words))
        )
        command = [sys.executable, "-m", "benchmarks.held", role, *given, *port]
        self._process = subprocess.Popen(
            host.command(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def read(self) -> str:
        """Return the next line that it prints."""
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise SystemExit("a process that holds connections has ended")
        return line

    def ask(self) -> str:
        """Send a line, and return the answer."""
        if self._process.stdin is not None:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return self.read()


def _source_ports(router: Host, opened: int) -> dict[str, int]:
    """Return the router's source ports in use, as soon as it has counted all of them."""
    limit = time.monotonic() + 120
    while True:
        ports = json.loads(router.run(sys.executable, "-c", _STATUS).stdout)["source_ports"]
        found = {each["source"]: each["in_use"] for each in ports}
        if sum(found.values()) >= opened or time.monotonic() > limit:
            return found
        threading.Event().wait(1)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{source}: {count:,}" for source, count in sorted(counts.items()))
