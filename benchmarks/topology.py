"""Client, router and server in three network namespaces: what a connection costs the whole machine.

The router only routes, redirects by our rules, or runs haproxy; load and server stay the same.
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.workloads import Tools
from egress_router.grammar.redirect import Protocol
from egress_router.kernel.nat import nftables
from egress_router.kernel.nat.plan import FamilyPlan, NatPlan, PlannedLine
from egress_router.lab import wiring
from egress_router.lab.hosts import Hosts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.lab.host import Host

ROUTER, CLIENT, SOURCE, SERVER = "10.1.0.1", "10.1.0.2", "10.2.0.1", "10.2.0.2"
SERVERS = tuple(IPv4Address("10.2.0.2") + number for number in range(16))
# More addresses of the router; the client reaches each from another address, as if it were another client.
OTHERS = tuple((f"10.1.0.{10 + number}", f"10.1.0.{100 + number}") for number in range(5))
HTTP, ECHO = 80, 81
BY_ADDRESS, BY_NAME, BY_HAPROXY = 8000, 8002, 8004
_OPEN_FILES = 20_000
HAPROXY = f"""\
global
    maxconn 8000
    nbthread 1
defaults
    mode tcp
    maxconn 8000
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen http
    bind {ROUTER}:{BY_HAPROXY}
    server dest {SERVER}:{HTTP}
listen echo
    bind {ROUTER}:{BY_HAPROXY + 1}
    server dest {SERVER}:{ECHO}
"""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the server: the address and the port of HTTP (echo is the next one).

    `rules`: the contents of a table that the router gets instead of our rules.
    """

    name: str
    address: str
    port: int
    rules: str = ""


ROUTED = Way("plain routing", SERVER, HTTP)
REDIRECTED = Way("redirect, an address", ROUTER, BY_ADDRESS)
NAMED = Way("redirect, a name with 16 addresses", ROUTER, BY_NAME)
FORWARDED = Way("haproxy", ROUTER, BY_HAPROXY)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of one run; `busy`: microseconds of work of all CPUs for one operation."""

    operations: int
    errors: int
    p50: float
    p99: float
    p999: float
    busy: float
    syn_retransmissions: int
    refused_by_timestamp: int


class Topology(Hosts):
    """The three hosts, built by the constructor and removed by `close`; `serves`: with a server."""

    def __init__(self, *, serves: bool = True) -> None:
        super().__init__()
        _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_OPEN_FILES, hard_limit), hard_limit))
        with self.building():
            self._folder = Path(self.holds(tempfile.TemporaryDirectory(prefix="bench-")))
            Tools(self._folder)
            self.client, self.router, self.server = (
                self.host(name) for name in ("client", "router", "server")
            )
            self._build()
            if serves:
                self.server.serve([self.tool("origin"), str(HTTP), "0.0.0.0"])  # noqa: S104
            (self._folder / "haproxy.cfg").write_text(HAPROXY)
            self.haproxy = self.router.start(["haproxy", "-db", "-f", str(self._folder / "haproxy.cfg")])

    def _build(self) -> None:
        wiring.cable(self.client, "eth0", self.router, "eth0")
        wiring.cable(self.router, "macvlan0", self.server, "eth0")
        wiring.address(self.client, "eth0", f"{CLIENT}/24")
        wiring.address(self.router, "eth0", f"{ROUTER}/24")
        wiring.address(self.router, "macvlan0", f"{SOURCE}/24")
        wiring.address(self.server, "eth0", *(f"{each}/24" for each in SERVERS))
        for router, client in OTHERS:
            wiring.address(self.router, "eth0", f"{router}/24")
            wiring.address(self.client, "eth0", f"{client}/24")
            self.client.ip(f"route add {router}/32 dev eth0 src {client}")
        wiring.default_route(self.client, ROUTER)
        wiring.default_route(self.server, SOURCE)
        self.router.forward()
        self.server.sysctl("net/core/somaxconn", 8192)
        self.server.sysctl("net/ipv4/tcp_max_syn_backlog", 8192)

    def remember_closed(self, *, does: bool) -> None:
        """Let the server keep TIME_WAIT, as servers do, or not, so that only work is measured."""
        self.server.sysctl("net/ipv4/tcp_max_tw_buckets", 262_144 if does else 0)

    def tool(self, name: str) -> str:
        """Return the path of a compiled program of `load/`."""
        return str(self._folder / name)

    def forget_connections(self) -> None:
        """Empty the router's connection tracking, so that no run meets entries of earlier ones."""
        self.router.run("conntrack", "--flush")

    def take(self, way: Way, more: int = 0) -> None:
        """Make the router work this way; if it only routes, it does not use connection tracking at all.

        `more`: how many other lines there are, every fifteenth with a name of 16 addresses.
        """
        self.router.run("nft", "flush ruleset")
        if way.rules:
            self.router.run("nft", "-f", "-", input=f"table inet bare {{\n{way.rules}\n}}\n")
        elif way in (REDIRECTED, NAMED):
            self.router.run(sys.executable, "-m", "benchmarks.topology", str(more))

    def run(self, way: Way, mode: str, connections: int, operations: int, rate: int = 0) -> Outcome:
        """Run a workload of the load generator once."""
        before, retransmitted, refused = _busy_seconds(), *self._counters()
        command = self.client.command(*self._load(way, mode, connections, operations), str(rate))
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout
        busy = _busy_seconds() - before
        report = json.loads(output)
        after = self._counters()
        return Outcome(
            operations=report["operations"],
            errors=report["errors"],
            p50=report["p50_us"],
            p99=report["p99_us"],
            p999=report["p999_us"],
            busy=busy / report["operations"] * 1e6,
            syn_retransmissions=after[0] - retransmitted,
            refused_by_timestamp=after[1] - refused,
        )

    def _load(self, way: Way, mode: str, connections: int, operations: int) -> list[str]:
        port = way.port + (mode in {"ping", "idle"})
        numbers = (port, port, connections, operations, 0)
        return [self.tool("load"), mode, *map(str, numbers), "direct", way.address]

    @contextlib.contextmanager
    def held(self, way: Way, connections: int) -> Iterator[None]:
        """Hold `connections` connections open during the block."""
        command = self.client.command(*self._load(way, "hold", connections, connections))
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            if process.stdout is None or process.stdout.readline() != f"ready {connections}\n":
                raise SystemExit(f"{way.name}: {connections} connections could not be opened")
            yield
        finally:
            process.kill()
            process.communicate()

    @staticmethod
    def others(way: Way) -> list[Way]:
        """Return the ways for other clients; none if the router only routes."""
        return [] if way is ROUTED else [replace(way, address=router) for router, _ in OTHERS]

    def _counters(self) -> tuple[int, int]:
        return (
            _counted(self.client, "TcpExtTCPSynRetrans"),
            _counted(self.server, "TcpExtPAWSTimewait"),
        )


def plan(extra: Sequence[PlannedLine] = ()) -> NatPlan:
    """Return the router's plan: HTTP and echo by address and by a name with 16 addresses, and more lines."""
    lines = [
        line(port + number, target, addresses)
        for port, addresses in ((BY_ADDRESS, (ip_address(SERVER),)), (BY_NAME, SERVERS))
        for number, target in enumerate((HTTP, ECHO))
    ]
    return NatPlan("macvlan0", 9797, True, (FamilyPlan(4, (ip_address(SOURCE),), (*lines, *extra), None),))


def line(port: int, target: int, addresses: tuple[IPAddress, ...]) -> PlannedLine:
    """Return a TCP line."""
    return PlannedLine(Protocol.TCP, port, port, target, addresses)


def _counted(host: Host, name: str) -> int:
    return int(host.run("nstat", "--zeros", "--ignore", "--noupdate", name).stdout.split()[-2])


def _busy_seconds() -> float:
    """Return the time that all CPUs have worked, interrupts included (proc(5), /proc/stat)."""
    fields = [
        int(each) for each in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    ]
    idle, waiting = fields[3], fields[4]
    return (sum(fields) - idle - waiting) / 100


def _more(count: int) -> list[PlannedLine]:
    one = (ip_address(SERVER),)
    return [line(10_000 + number, HTTP, SERVERS if number % 15 == 0 else one) for number in range(count)]


if __name__ == "__main__":
    nftables.apply(plan(_more(int(sys.argv[1]))))
