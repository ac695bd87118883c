"""Two nodes with a router pod each, one wire, one source address: where fail-over is tried.

     client ---+            +------+  uplink0
   10.128.0.10 |   +--------| one  |-------------+
               |   |  cni0  +------+  .12.10     |
             +-------+                           +--- gateway ------- outside
             |  pod  |      +------+  uplink0    |  192.168.12.1      203.0.113.25
             |network|------| two  |-------------+  (the wire is its switch)
             +-------+      +------+  .12.11     |
                                                 +--- station (a third one on the wire)

Each node carries its pod's eth0 through to the pod network, a switch of its own host, and its macvlan's
parent on the wire. A watcher on the gateway's switch counts every frame that speaks for the source address.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Self

from egress_router.lab import wiring
from egress_router.lab.host import Host

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE, SOURCE_V6 = "192.168.12.99", "fd00:12::99"
GATEWAY, GATEWAY_V6 = "192.168.12.1", "fd00:12::1"
SERVER, SERVER_V6 = "203.0.113.25", "2001:db8:113::25"
CLIENT = "10.128.0.10"
API = "10.128.0.1"
PODS = ("10.128.0.2", "10.128.0.3")
_CABLES = ("cable0", "cable1")
_ALL, _OUTGOING = 0x0003, 4  # linux/if_ether.h, linux/if_packet.h
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35
_START_SECONDS = 60
_SOON = 0.4  # seconds: less than any router needs to lose its right and win it again


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame that speaks for the source address: when, and through which cable it came."""

    at: float
    cable: str
    mac: str


class Side:
    """One node and its router pod."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.address = PODS[number]
        self.errors: deque[str] = deque(maxlen=200)
        self.rebuild()

    def rebuild(self) -> None:
        """Make node and pod anew."""
        self.node = Host(f"{self.name}-node")
        self.pod = Host(f"{self.name}-pod")
        self.router: subprocess.Popen[str] | None = None
        self.has_account = False

    def close(self) -> None:
        """End both."""
        self.pod.close()
        self.node.close()

    def pids(self) -> list[int]:
        """Return the processes of the router."""
        if self.router is None:
            return []
        found = [self.router.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += [int(each) for each in (task / "children").read_text("ascii").split()]
        return found

    def signal(self, number: int) -> None:
        """Send a signal to every process of the router."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


class Pair:
    """The network, built by the constructor and gone after `close`."""

    def __init__(self) -> None:
        self._hosts = contextlib.ExitStack()
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None
        self._api: subprocess.Popen[str] | None = None
        try:
            self.gateway = self._host("gateway")
            self.outside = self._host("outside")
            self.network = self._host("network")
            self.client = self._host("client")
            self.station = self._host("station")
            self.sides = [self._side("one", 0), self._side("two", 1)]
            self._build()
            self.frames: deque[Frame] = deque(maxlen=1_000_000)
            self._watch()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every host and what runs in it."""
        self._ended.set()
        if self._watcher is not None:
            self._watcher.join()
        self._hosts.close()

    def _host(self, name: str) -> Host:
        host = Host(name)
        self._hosts.callback(host.close)
        return host

    def _side(self, name: str, number: int) -> Side:
        side = Side(name, number)
        self._hosts.callback(side.close)
        return side

    def _build(self) -> None:
        gateway, network = self.gateway, self.network
        for side in self.sides:
            self._connect(side)
        wiring.cable(self.station, "eth0", gateway, "cable2")
        wiring.cable(self.client, "eth0", network, "client")
        wiring.switch(network, "cni0", "pod0", "pod1", "client")
        wiring.switch(gateway, "wire", "cable0", "cable1", "cable2")
        # Else a switch has the least address of its ports, and another one when a node is replaced.
        network.run("ip", "link", "set", "cni0", "address", "02:00:00:00:0a:01")
        gateway.run("ip", "link", "set", "wire", "address", "02:00:00:00:0c:01")
        wiring.address(network, "cni0", "10.128.0.1/24", "10.128.0.53/24")
        wiring.cable(gateway, "eth0", self.outside, "eth0")
        wiring.address(gateway, "wire", f"{GATEWAY}/24", f"{GATEWAY_V6}/64")
        wiring.address(gateway, "eth0", "203.0.113.1/24", "2001:db8:113::1/64")
        wiring.address(self.outside, "eth0", f"{SERVER}/24", f"{SERVER_V6}/64")
        wiring.address(self.client, "eth0", f"{CLIENT}/24")
        wiring.default_route(self.outside, "203.0.113.1", "2001:db8:113::1")
        gateway.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        # A cable that is cut off from the switch still ends here, and must not find a gateway.
        gateway.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore")
        gateway.run("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")

    def _connect(self, side: Side) -> None:
        """Lay the cables of a node and its pod."""
        number = side.number
        wiring.cable(side.pod, "eth0", self.network, f"pod{number}")
        wiring.cable(side.node, "uplink0", self.gateway, f"cable{number}")
        wiring.address(side.node, "uplink0", f"192.168.12.1{number}/24")
        wiring.address(side.pod, "eth0", f"{side.address}/24")
        wiring.default_route(side.pod, "10.128.0.1")
        side.pod.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        side.pod.run("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
        side.pod.write("/etc/resolv.conf", "nameserver 10.128.0.53\n")

    def serve(self) -> None:
        """Have the external server answer."""
        module = "egress_router.lab.server"
        process = self.outside.start([sys.executable, "-m", module, "80"])
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise RuntimeError("the external server did not start")

    def serve_api(self) -> dict[str, str]:
        """Have the pod network hold an API server; return what a pod's environment says of it."""
        folder = Path(self._hosts.enter_context(tempfile.TemporaryDirectory(prefix="egress-api-")))
        key, self._ca = folder / "key.pem", folder / "ca.pem"
        words = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=api -addext subjectAltName=IP:{API}"
        subprocess.run(
            ["openssl", *words.split(), "-keyout", str(key), "-out", str(self._ca)],
            check=True,
            capture_output=True,
        )
        self._api_command = [API, "6443", "secret", str(self._ca), str(key)]
        self.start_api()
        return {
            "KUBERNETES_SERVICE_HOST": API,
            "KUBERNETES_SERVICE_PORT": "6443",
            "EGRESS_STANDBY_LEASE": "egress/router",
            "EGRESS_STANDBY_SERVICE": "egress/router",
        }

    def start_api(self) -> None:
        """Start the API server; it has forgotten everything."""
        module = "egress_router.lab.api_server"
        self._api = self.network.start([sys.executable, "-m", module, *self._api_command])
        if self._api.stdout is None or self._api.stdout.readline() != "ready\n":
            raise RuntimeError("the API server did not start")

    def pause_api(self, *, goes_on: bool = False) -> None:
        """Have the API server hang, or go on."""
        if self._api is not None:
            self._api.send_signal(signal.SIGCONT if goes_on else signal.SIGSTOP)

    def _give_account(self, side: Side) -> None:
        """Give a pod its service account, in a /run of its own."""
        folder = "/run/secrets/kubernetes.io/serviceaccount"
        script = f"mount -t tmpfs none /run && mkdir -p {folder} && echo secret >{folder}/token"
        side.pod.run("sh", "-c", f"{script} && cp {self._ca} {folder}/ca.crt")

    def start(self, side: Side, environment: Mapping[str, str] | None = None) -> None:
        """Start a router in a pod."""
        # A pod that is made anew has another hardware address on the pod network; a plug-in announces it.
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
        if self._api is not None and not side.has_account:
            self._give_account(side)
            side.has_account = True
        side.router = side.pod.start(command, {**base, **(environment or {})})
        threading.Thread(target=_drain, args=(side.router, side.errors), daemon=True).start()

    def stop(self, side: Side, number: int = signal.SIGKILL) -> None:
        """End a router, and what the kernel keeps of it in the pod."""
        if side.router is not None:
            side.signal(number)
            side.router.wait(_START_SECONDS)

    # What is seen

    def _watch(self) -> None:
        wire = self.gateway.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
        wire.settimeout(0.2)
        wire.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 * 1024 * 1024)
        # When the kernel saw a frame, not when this thread came to it.
        wire.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._watcher = threading.Thread(target=self._capture, args=(wire,), daemon=True)
        self._watcher.start()

    def _capture(self, wire: socket.socket) -> None:
        wanted = ip_address(SOURCE).packed, ip_address(SOURCE_V6).packed
        with wire:
            while not self._ended.is_set():
                try:
                    frame, extra, _, (cable, _, kind, *_) = wire.recvmsg(256, 64)
                except TimeoutError:
                    continue
                if kind != _OUTGOING and cable in _CABLES and _speaks_for(frame, wanted):
                    self.frames.append(Frame(_stamp(extra), cable, frame[6:12].hex(":")))

    def second_owner(self) -> list[Frame]:
        """Return the frames that came while another cable was in use: those of a second owner.

        A cable is in use from one frame to the next, if that comes soon; a gate that closed stays closed.
        """
        frames = sorted(self.frames, key=lambda frame: frame.at)
        uses = [use for cable in _CABLES for use in _uses(frames, cable)]
        return [
            frame
            for frame in frames
            if any(cable != frame.cable and first < frame.at < last for cable, first, last in uses)
        ]

    def ask(self, address: str, timeout: float = 0.2) -> bool:
        """Connect from the client through a pod to the server; whether it answered."""
        with self.client.socket(socket.AF_INET, socket.SOCK_STREAM) as wire:
            wire.settimeout(timeout)
            try:
                wire.connect((address, 80))
                return bool(wire.recv(100))
            except OSError:
                return False

    # What happens to it

    def isolate(self, side: Side) -> None:
        """Cut the wire between one side and everybody else, while its cable stays plugged in."""
        self.gateway.ipr.link("set", index=self._port(side), master=0)

    def mute(self, side: Side) -> None:
        """Cut one pod off the pod network, but for the client, which then sees what it still answers."""
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
        """Make everything as it was built."""
        for side in self.sides:
            wiring.set_up(self.gateway, f"cable{side.number}")
            wiring.plug(self.gateway, "wire", f"cable{side.number}")
            wiring.set_up(self.network, f"pod{side.number}")
            wiring.plug(self.network, "cni0", f"pod{side.number}")
        self.network.run("nft", "flush", "ruleset")

    def lose_node(self, side: Side) -> None:
        """Have a node vanish, with all that is on it."""
        side.close()

    def restore_node(self, side: Side) -> None:
        """Have a new node in the place of one that vanished."""
        side.rebuild()
        self._connect(side)
        self.heal()

    def restart_gateway(self) -> None:
        """Have the gateway forget who has which address, after a moment without it."""
        own = f"{GATEWAY}/24"
        self.gateway.run("ip", "addr", "del", own, "dev", "wire")
        self.gateway.run("ip", "neigh", "flush", "all")
        time.sleep(0.3)
        self.gateway.run("ip", "addr", "add", own, "dev", "wire")

    def await_standby(self, side: Side) -> None:
        """Wait until a router could take over at once; with a witness, until that names both."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            known = self.standing(side)
            if known.get("role") == "standby" and known.get("holder"):
                active = self.standing(next(each for each in self.sides if each is not side))
                if active.get("members") in {None, 2}:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"no standby: {self.standing(side)} {list(side.errors)[-8:]}")

    def readiness(self, side: Side) -> str:
        """Return what `/readyz` of a pod says, its status line first."""
        return self._get(side, "/readyz").decode()

    def standing(self, side: Side) -> dict[str, object]:
        """Return what `/status` of a router says of its group; nothing where it does not answer."""
        try:
            said = json.loads(self._get(side, "/status").partition(b"\r\n\r\n")[2]).get("standby")
        except ValueError:
            return {}
        return said if isinstance(said, dict) else {}

    def _get(self, side: Side, path: str) -> bytes:
        """Ask a pod's administration endpoint; nothing where it does not answer."""
        try:
            with self.client.socket(socket.AF_INET, socket.SOCK_STREAM) as wire:
                wire.settimeout(1)
                wire.connect((side.address, 9797))
                wire.sendall(f"GET {path} HTTP/1.1\r\nHost: router\r\n\r\n".encode())
                return b"".join(iter(lambda: wire.recv(65536), b""))
        except OSError:
            return b""

    def active(self) -> list[Side]:
        """Return the sides through which the client gets an answer."""
        return [side for side in self.sides if side.router is not None and self.ask(side.address)]

    def await_active(self, side: Side | None = None, seconds: float = _START_SECONDS) -> Side:
        """Wait until a side, or this one, is active."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.active()
            if found and (side is None or side in found):
                return found[0]
        said = {each.number: list(each.errors)[-8:] for each in self.sides}
        raise RuntimeError(f"no active router within {seconds} s: {said}")


def _uses(frames: list[Frame], cable: str) -> list[tuple[str, float, float]]:
    """Return when a cable was in use."""
    uses: list[tuple[str, float, float]] = []
    for frame in frames:
        if frame.cable != cable:
            continue
        if uses and frame.at - uses[-1][2] < _SOON:
            uses[-1] = (cable, uses[-1][1], frame.at)
        else:
            uses.append((cable, frame.at, frame.at))
    return uses


def _speaks_for(frame: bytes, wanted: tuple[bytes, bytes]) -> bool:
    kind = frame[12:14]
    if kind == b"\x08\x00":
        return frame[26:30] == wanted[0]
    if kind == b"\x08\x06":
        return frame[28:32] == wanted[0]
    if kind == b"\x86\xdd":
        is_advertised = frame[20] == 58 and frame[54] == 136 and frame[62:78] == wanted[1]
        return frame[22:38] == wanted[1] or is_advertised
    return False


def _stamp(extra: list[tuple[int, int, bytes]]) -> float:
    seconds, nanoseconds = struct.unpack("qq", extra[0][2][:16])
    return float(seconds) + float(nanoseconds) / 1e9


def _drain(process: subprocess.Popen[str], lines: deque[str]) -> None:
    if process.stderr is not None:
        with contextlib.suppress(ValueError, OSError):
            for line in process.stderr:
                lines.append(line.rstrip())
