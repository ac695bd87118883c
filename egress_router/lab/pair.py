"""Two nodes with a router pod each, one wire, one source address: the network of the fail-over tests.

     client ---+            +------+  uplink0
   10.128.0.10 |   +--------| one  |-------------+
               |   |  cni0  +------+  .12.10     |
             +-------+                           +--- gateway ------- outside
             |  pod  |      +------+  uplink0    |  192.168.12.1      203.0.113.25
             |network|------| two  |-------------+  (the wire is its switch)
             +-------+      +------+  .12.11     |
                                                 +--- station (a third one on the wire)

The eth0 of each pod is on the pod network, a switch on its own host; the parent of its macvlan is its node's
uplink0 on the wire. A watcher on the gateway's switch records every frame that speaks for the source address.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router.lab import wiring
from egress_router.lab.hosts import Hosts
from egress_router.lab.network import (
    GATEWAY,
    SERVERS,
    SERVERS_V6,
    SOURCE,
    SOURCE_V6,
    build_outside,
)
from egress_router.lab.pod_api import PodApi
from egress_router.lab.side import Side
from egress_router.lab.wire_watch import WireWatch

if TYPE_CHECKING:
    import subprocess
    from collections import deque
    from collections.abc import Mapping

SERVER, SERVER_V6 = SERVERS[0], SERVERS_V6[0]
CLIENT = "10.128.0.10"
_START_SECONDS, _HEALTHY_SECONDS = 60, 120


class Pair(Hosts):
    """The network: the constructor builds it, `close` removes it."""

    def __init__(self) -> None:
        super().__init__()
        self.api: PodApi | None = None
        with self.building():
            self.gateway = self.host("gateway")
            self.outside = self.host("outside")
            self.network = self.host("network")
            self.client = self.host("client")
            self.station = self.host("station")
            self.sides = [Side("one", 0), Side("two", 1)]
            for side in self.sides:
                self.at_end(side.close)
            self._build()
            self.wire = WireWatch(self.gateway, ("cable0", "cable1"), (SOURCE, SOURCE_V6))
            self.at_end(self.wire.close)

    def _build(self) -> None:
        gateway, network = self.gateway, self.network
        wiring.switch(network, "cni0")
        wiring.switch(gateway, "wire")
        # Else a bridge takes the lowest address of its ports, and changes it when a node is replaced.
        network.run("ip", "link", "set", "cni0", "address", "02:00:00:00:0a:01")
        gateway.run("ip", "link", "set", "wire", "address", "02:00:00:00:0c:01")
        for side in self.sides:
            self._connect(side)
        wiring.join(self.station, "eth0", (gateway, "wire", "cable2"))
        wiring.join(self.client, "eth0", (network, "cni0", "client"), f"{CLIENT}/24")
        wiring.address(network, "cni0", "10.128.0.1/24", "10.128.0.53/24")
        build_outside(gateway, self.outside, (SERVER, SERVER_V6))
        # A port taken out of the switch is still an interface here: it must not answer for the gateway.
        gateway.sysctl("net/ipv4/conf/all/arp_ignore", 1)

    def _connect(self, side: Side) -> None:
        """Connect a node and its pod."""
        number = side.number
        wiring.join(side.pod, "eth0", (self.network, "cni0", f"pod{number}"), f"{side.address}/24")
        wiring.join(
            side.node, "uplink0", (self.gateway, "wire", f"cable{number}"), f"192.168.12.1{number}/24"
        )
        wiring.default_route(side.pod, "10.128.0.1")
        side.pod.forward()
        side.pod.write("/etc/resolv.conf", "nameserver 10.128.0.53\n")

    def serve(self) -> None:
        """Start the external server."""
        self.outside.serve([sys.executable, "-m", "egress_router.lab.server", "80"])

    def serve_api(self) -> dict[str, str]:
        """Start an API server on the pod network; return the variables that a router needs to use it."""
        self.api = PodApi(self.network, Path(self.enter(tempfile.TemporaryDirectory(prefix="egress-api-"))))
        return PodApi.environment()

    def start(self, side: Side, environment: Mapping[str, str] | None = None) -> None:
        """Start a router in a pod."""
        # A new pod has another hardware address on the pod network. A CNI plug-in would announce it.
        self.client.run("ip", "neighbour", "flush", "all")
        base = {
            "EGRESS_SOURCE": f"{SOURCE}/24",
            "EGRESS_GATEWAY": GATEWAY,
            "EGRESS_DESTINATION": f"80 tcp {SERVER}",
            "EGRESS_PARENT_NETNS": str(side.node.path),
            "EGRESS_PARENT_INTERFACE": "uplink0",
            "EGRESS_STANDBY": "on",
        }
        command = [sys.executable, "-m", "egress_router", "setup"]
        if self.api is not None:
            self.api.give_account(side)
        side.router = side.pod.start(command, {**base, **(environment or {})})
        threading.Thread(target=_drain, args=(side.router, side.errors), daemon=True).start()

    def stop(self, side: Side, number: int = signal.SIGKILL) -> None:
        """Send a router a signal, and wait until it has ended."""
        if side.router is not None:
            side.signal(number)
            side.router.wait(_START_SECONDS)

    def ask(self, address: str, timeout: float = 0.2) -> bool:
        """Connect from the client through a pod to the server; return whether it answered."""
        with self.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            try:
                sock.connect((address, 80))
                return bool(sock.recv(100))
            except OSError:
                return False

    # Faults

    def isolate(self, side: Side) -> None:
        """Cut the wire between one side and all others; its cable keeps its carrier."""
        self.gateway.ipr.link("set", index=self._port(side), master=0)

    def cut_off(self, side: Side) -> None:
        """Cut one pod off the wire and the pod network; only the client still reaches it, and goes on."""
        self.isolate(side)
        mac = self._pod_mac(side)
        text = (
            "table bridge cut {\n  chain forward {\n    type filter hook forward priority 0;\n"
            f"    ether saddr {mac} ip daddr != {CLIENT} drop\n"
            f"    ether daddr {mac} ip saddr != {CLIENT} drop\n  }}\n}}\n"
        )
        self.network.run("nft", "-f", "-", input=text)

    def _pod_mac(self, side: Side) -> str:
        link = side.pod.ipr.get_links(ifname="eth0")[0]
        return str(link.get_attr("IFLA_ADDRESS"))

    def _port(self, side: Side) -> int:
        return int(self.gateway.ipr.link_lookup(ifname=f"cable{side.number}")[0])

    def heal(self) -> None:
        """Restore all cables, switches and rules."""
        for side in self.sides:
            wiring.set_up(self.gateway, f"cable{side.number}")
            wiring.plug(self.gateway, "wire", f"cable{side.number}")
            wiring.set_up(self.network, f"pod{side.number}")
            wiring.plug(self.network, "cni0", f"pod{side.number}")
        self.network.run("nft", "flush", "ruleset")

    def lose_node(self, side: Side) -> None:
        """Remove a node with everything on it."""
        side.close()

    def restore_node(self, side: Side) -> None:
        """Put a new node in the place of one that was removed."""
        side.rebuild()
        self._connect(side)
        self.heal()

    def restart_gateway(self) -> None:
        """Take the gateway's address away for 0.3 s, and clear its neighbour table."""
        own = f"{GATEWAY}/24"
        self.gateway.run("ip", "addr", "del", own, "dev", "wire")
        self.gateway.run("ip", "neigh", "flush", "all")
        time.sleep(0.3)
        wiring.address(self.gateway, "wire", own)

    def await_healthy(self) -> Side:
        """Wait until one router is active, and the other one could take over at once; return the first."""
        deadline = time.monotonic() + _HEALTHY_SECONDS
        while time.monotonic() < deadline:
            for side in self.sides:
                # On a busy machine the two may change roles between the two checks.
                if self.is_standby(self.sides[1 - side.number]) and self.ask(side.address):
                    return side
            time.sleep(0.05)
        states = {each.name: (self.status(each), list(each.errors)[-8:]) for each in self.sides}
        raise RuntimeError(f"no healthy pair within {_HEALTHY_SECONDS} s: {states}")

    def await_status(self, side: Side) -> dict[str, object]:
        """Wait until a router reports the status of its group, and return it."""
        deadline = time.monotonic() + _START_SECONDS
        while not (status := self.status(side)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{side.name} reports no status: {list(side.errors)[-8:]}")
            time.sleep(0.02)
        return status

    def await_standby(self, side: Side) -> None:
        """Wait until a router could take over at once."""
        deadline = time.monotonic() + _START_SECONDS
        while not self.is_standby(side):
            if time.monotonic() > deadline:
                raise RuntimeError(f"no standby: {self.status(side)} {list(side.errors)[-8:]}")
            time.sleep(0.05)

    def is_standby(self, side: Side) -> bool:
        """Return whether a router could take over at once; an arbiter, if there is one, must name both."""
        status = self.status(side)
        if status.get("role") != "standby" or not status.get("holder"):
            return False
        return self.status(self.sides[1 - side.number]).get("members") in {None, 2}

    def readiness(self, side: Side) -> str:
        """Return the answer of a pod's `/readyz`, from its status line on."""
        return self._get(side, "/readyz").decode()

    def status(self, side: Side) -> dict[str, object]:
        """Return the status of a router's group from its `/status`; empty if it does not answer."""
        try:
            status = json.loads(self._get(side, "/status").partition(b"\r\n\r\n")[2]).get("standby")
        except ValueError:
            return {}
        return status if isinstance(status, dict) else {}

    def _get(self, side: Side, path: str) -> bytes:
        """Return the answer of a pod's administration endpoint; empty if it does not answer."""
        try:
            with self.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
                sock.settimeout(1)
                sock.connect((side.address, 9797))
                sock.sendall(f"GET {path} HTTP/1.1\r\nHost: router\r\n\r\n".encode())
                return b"".join(iter(lambda: sock.recv(65536), b""))
        except OSError:
            return b""

    def active(self) -> list[Side]:
        """Return the sides through which the client gets an answer."""
        return [side for side in self.sides if side.router is not None and self.ask(side.address)]

    def await_active(self, side: Side | None = None, seconds: float = _START_SECONDS) -> Side:
        """Wait until `side` is active, or any if it is None; return it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.active()
            if found and (side is None or side in found):
                return found[0] if side is None else side
        logs = {each.number: list(each.errors)[-8:] for each in self.sides}
        raise RuntimeError(f"no active router within {seconds} s: {logs}")


def _drain(process: subprocess.Popen[str], lines: deque[str]) -> None:
    if process.stderr is not None:
        with contextlib.suppress(ValueError, OSError):
            for line in process.stderr:
                lines.append(line.rstrip())
