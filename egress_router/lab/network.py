"""The small network of the demo and the network tests. Its addresses are those of the OKD document.

      client ---+                                              +--- rival
    10.128.0.10 |          +------+                            |  (a second station on the wire)
                +--- cni0 -| node |- uplink0 --- wire ---------+
      router ---+          +------+  .12.10                    |             203.0.113.0/24
    10.128.0.2             |                                   +--- gateway ------------------- outside
      macvlan0 on uplink0  +--- remote                            192.168.12.1                .25 .26 … .53
      192.168.12.99             172.16.0.10

`node` is a node of a cluster: it forwards for its pods and hides them behind its own address. So what leaks
through it is seen outside as 192.168.12.10. `remote` is a client that only the pod's old default route
reaches.
"""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import sys
import threading
import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from egress_router.lab import nameserver, server, wiring
from egress_router.lab.hosts import Hosts
from egress_router.lab.zone import parse_zone

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from egress_router.lab.host import Host

SOURCE, SOURCE_V6 = "192.168.12.99", "fd00:12::99"
GATEWAY, GATEWAY_V6 = "192.168.12.1", "fd00:12::1"
NODE, NODE_V6 = "192.168.12.10", "fd00:12::10"
ROUTER, ROUTER_V6 = "10.128.0.2", "fd00:128::2"
NAME_SERVER = "10.128.0.53"
SERVERS = tuple(f"203.0.113.{last}" for last in (25, 26, 27, 28, 53))
SERVERS_V6 = tuple(f"2001:db8:113::{last}" for last in (25, 26, 27, 28, 53))
PORTS = ("80", "443", "8443", "53", "5000", "5001", "5100", "7777", "http:8000")

# For everything that is started in the laboratory, and its answers; long, because the machine may be busy.
_START_SECONDS = 60
_ANSWER_SECONDS = 20.0

_MASQUERADE = """
table inet node {
  chain out {
    type nat hook postrouting priority srcnat;
    ip saddr { 10.128.0.0/24, 172.16.0.0/24 } oifname "uplink0" masquerade
    ip6 saddr { fd00:128::/64, fd00:172::/64 } oifname "uplink0" masquerade
  }
}
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What an external server saw of one connection or datagram."""

    server: str
    port: int
    source: str
    source_port: int


class Laboratory(Hosts):
    """The network: the constructor builds it, `close` removes it."""

    def __init__(self) -> None:
        super().__init__()
        with self.building():
            self._name_server: nameserver.NameServer | None = None
            self.node = self.host("node")
            self.client = self.host("client")
            self.router = self.host("router")
            self.gateway = self.host("gateway")
            self.outside = self.host("outside")
            self._build_wire()
            self._build_cluster()
            self._settle(self.node, self.client, self.router, self.gateway, self.outside)

    @functools.cached_property
    def rival(self) -> Host:
        """The second station on the wire, created on first use: most tests do not need it."""
        rival = self.host("rival")
        wiring.join(rival, "eth0", (self.gateway, "wire", "port2"))
        self._settle(rival, self.gateway)
        return rival

    @functools.cached_property
    def remote(self) -> Host:
        """The client beyond the pod's old default route, created on first use."""
        remote = self.host("remote")
        wiring.cable(self.node, "remote0", remote, "eth0")
        wiring.address(self.node, "remote0", "172.16.0.1/24", "fd00:172::1/64")
        wiring.address(remote, "eth0", "172.16.0.10/24", "fd00:172::10/64")
        wiring.default_route(remote, "172.16.0.1", "fd00:172::1")
        self._settle(remote, self.node)
        return remote

    def _build_wire(self) -> None:
        wiring.switch(self.gateway, "wire")
        wiring.join(self.node, "uplink0", (self.gateway, "wire", "port1"), f"{NODE}/24", f"{NODE_V6}/64")
        build_outside(self.gateway, self.outside, (*SERVERS, *SERVERS_V6))

    def _build_cluster(self) -> None:
        node = self.node
        wiring.switch(node, "cni0")
        wiring.join(self.client, "eth0", (node, "cni0", "pod1"), "10.128.0.10/24", "fd00:128::10/64")
        wiring.join(self.router, "eth0", (node, "cni0", "pod2"), f"{ROUTER}/24", f"{ROUTER_V6}/64")
        wiring.address(node, "cni0", "10.128.0.1/24", "fd00:128::1/64", f"{NAME_SERVER}/24")
        for pod in (self.client, self.router):
            wiring.default_route(pod, "10.128.0.1", "fd00:128::1")
            pod.write("/etc/resolv.conf", f"nameserver {NAME_SERVER}\n")
        wiring.default_route(node, GATEWAY, GATEWAY_V6)
        node.forward()
        node.run("nft", "-f", "-", input=_MASQUERADE)

    def serve(self, ports: Sequence[str] = PORTS) -> None:
        """Start the external servers, on every address."""
        self.enter(server.in_thread(ports, self.outside.path))

    def setup(self, environment: Mapping[str, str]) -> subprocess.Popen[str]:
        """Start `egress-router setup` in the router, with the macvlan's parent in the node's namespace."""
        program = [sys.executable, "-m", "egress_router", "setup"]
        base = {
            "EGRESS_SOURCE": SOURCE,
            "EGRESS_GATEWAY": GATEWAY,
            "EGRESS_PARENT_NETNS": str(self.node.path),
        }
        return self.router.start(program, {**base, **environment})

    def finish_setup(self, environment: Mapping[str, str]) -> str:
        """Run `egress-router setup` to its end; return its log. RuntimeError if it fails."""
        process = self.setup(environment)
        _, errors = process.communicate(timeout=_START_SECONDS)
        if process.returncode:
            raise RuntimeError(f"setup ended with {process.returncode}: {errors.strip()}")
        return errors

    @contextlib.contextmanager
    def staying(self, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
        """Run a router in mode `legacy`; the block begins once its network is set up."""
        process = self.setup({**environment, "EGRESS_ROUTER_MODE": "legacy"})
        log: list[str] = []
        reader = threading.Thread(target=lambda: log.extend(process.stderr or ()), daemon=True)
        reader.start()
        try:
            self._await(lambda: any("network is set up" in line for line in log), "setup", process)
            yield process
        finally:
            process.terminate()
            process.wait(_START_SECONDS)

    def set_zone(self, zone: Mapping[str, object]) -> None:
        """Set the zone of the cluster's name server, which the first call starts."""
        parsed = parse_zone(json.dumps(zone))
        if self._name_server is None:
            self._name_server = self.enter(
                nameserver.in_thread(parsed, address=NAME_SERVER, port=53, namespace=self.node.path)
            )
        self._name_server.zone = parsed

    @contextlib.contextmanager
    def proxy(self, mode: str, environment: Mapping[str, str], port: int) -> Iterator[subprocess.Popen[str]]:
        """Run a proxy in the router; the block begins once it listens on `port`."""
        command = [sys.executable, "-m", "egress_router", mode]
        process = self.router.start(command, {"EGRESS_LOG_LEVEL": "warning", **environment})
        try:
            self._await(lambda: _connects(self.client, ROUTER, port), mode, process)
            yield process
        finally:
            process.terminate()
            process.wait(_START_SECONDS)

    def _settle(self, *hosts: Host) -> None:
        self._await(lambda: all(host.is_settled() for host in hosts), "the laboratory's network")

    @staticmethod
    def _await(check: Callable[[], bool], what: str, process: subprocess.Popen[str] | None = None) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not check():
            if process is not None and process.poll() is not None and process.stderr is not None:
                raise RuntimeError(f"{what} ended: {process.stderr.read().strip()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not start within {_START_SECONDS} s")
            time.sleep(0.02)

    def ask_tcp(self, client: Host, address: str, port: int, timeout: float = _ANSWER_SECONDS) -> Seen:
        """Connect from a host; return what the server saw. OSError if it cannot connect."""
        with client.socket(_family(address), socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            sock.connect((address, port))
            with sock.makefile("rb") as lines:
                return _read_seen(lines.readline())

    def ask_udp(self, client: Host, address: str, port: int, timeout: float = _ANSWER_SECONDS) -> Seen:
        """Send a datagram from a host; return what the server saw. OSError if no answer comes."""
        with client.socket(_family(address), socket.SOCK_DGRAM) as sock:
            sock.settimeout(timeout)
            sock.connect((address, port))
            sock.send(b"who am I?")
            return _read_seen(sock.recv(4096))


def build_outside(gateway: Host, outside: Host, servers: Sequence[str]) -> None:
    """Make a gateway that has its switch `wire` already route to external servers."""
    wiring.cable(gateway, "eth0", outside, "eth0")
    wiring.address(gateway, "wire", f"{GATEWAY}/24", f"{GATEWAY_V6}/64")
    wiring.address(gateway, "eth0", "203.0.113.1/24", "2001:db8:113::1/64")
    wiring.address(outside, "eth0", *(f"{each}/{64 if ':' in each else 24}" for each in servers))
    wiring.default_route(outside, "203.0.113.1", "2001:db8:113::1")
    gateway.forward()


def _family(address: str) -> int:
    return socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6


def _connects(client: Host, address: str, port: int) -> bool:
    with client.socket(_family(address), socket.SOCK_STREAM) as sock:
        sock.settimeout(1)
        return sock.connect_ex((address, port)) == 0


def _read_seen(line: bytes) -> Seen:
    if not line:
        raise ConnectionResetError("the server sent nothing")
    seen: dict[str, str | int] = json.loads(line)
    return Seen(str(seen["server"]), int(seen["port"]), str(seen["source"]), int(seen["source_port"]))
