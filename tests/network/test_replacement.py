"""How long clients are without the router when its pod is replaced on the same node, and its container restarted.

`pytest -rP tests/network/test_replacement.py` shows the figures.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Self

import pytest

from egress_router.lab import wiring
from egress_router.lab.network import GATEWAY, ROUTER, SOURCE
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.lab.host import Host
    from egress_router.lab.network import Laboratory

PROGRAM = (sys.executable, "-m", "egress_router")
NEXT = "10.128.0.3"
SERVER = "203.0.113.25"
DRAIN_SECONDS = 5.0  # the chart's drainSeconds
QUIET_START = 0.3  # seconds that the program takes to say its version on a machine that does nothing else


class Pod:
    """A pod of the chart: `setup` and then, in the same network, the proxy."""

    def __init__(self, lab: Laboratory, host: Host, address: str) -> None:
        self.host = host
        self.address = address
        self.setup = host.start(
            [*PROGRAM, "setup"],
            {
                "EGRESS_ROUTER_MODE": "http-proxy",
                "EGRESS_SOURCE": SOURCE,
                "EGRESS_GATEWAY": GATEWAY,
                "EGRESS_PARENT_NETNS": str(lab.node.path),
                "EGRESS_CLAIM_TIMEOUT": "600",
            },
        )

    def serve(self) -> None:
        """Have its proxy begin as soon as its network is set up, as the kubelet does."""
        _, said = self.setup.communicate(timeout=WAIT_SECONDS)
        assert self.setup.returncode == 0, said
        self.restart()

    def restart(self) -> None:
        """Have the kubelet begin the container."""
        self.proxy = self.host.start(
            [*PROGRAM, "http-proxy"],
            {
                "EGRESS_HTTP_PROXY_DESTINATION": "203.0.113.0/24",
                "EGRESS_DRAIN_SECONDS": f"{DRAIN_SECONDS:g}",
                "EGRESS_LOG_LEVEL": "error",
            },
        )

    def ends(self) -> None:
        """Wait until its proxy has ended, and take its network away."""
        assert self.proxy.wait(WAIT_SECONDS) == 0
        self.host.close()


@contextlib.contextmanager
def tunnel(lab: Laboratory, pod: Pod) -> Iterator[tuple[socket.socket, str]]:
    """Open a tunnel through a pod; yield it with the source that the server behind it saw."""
    with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(1)
        sock.connect((pod.address, 8080))
        sock.settimeout(WAIT_SECONDS)
        sock.sendall(f"CONNECT {SERVER}:80 HTTP/1.1\r\nHost: {SERVER}\r\n\r\n".encode())
        with sock.makefile("rb") as lines:
            if b" 200 " not in lines.readline():
                raise ConnectionRefusedError("no tunnel")
            while lines.readline() not in {b"\r\n", b""}:
                pass
            yield sock, json.loads(lines.readline())["source"]


def served(lab: Laboratory, pod: Pod) -> bool:
    try:
        with tunnel(lab, pod) as (_, source):
            assert source == SOURCE
            return True
    except OSError:
        return False


@pytest.fixture
def pod(lab: Laboratory) -> Pod:
    lab.serve()
    made = Pod(lab, lab.router, ROUTER)
    made.serve()
    until(lambda: served(lab, made), "the first answer")
    return made


def successor(lab: Laboratory) -> Pod:
    """Make the network of the pod that replaces the first one, and begin its `setup`."""
    host = lab.host("next")
    wiring.join(host, "eth0", (lab.node, "cni0", "pod3"), f"{NEXT}/24")
    wiring.default_route(host, "10.128.0.1")
    return Pod(lab, host, NEXT)


class Pace:
    """How fast this machine is during a trial: meanwhile the program is started again and again."""

    def __init__(self) -> None:
        self._starts: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._start)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _start(self) -> None:
        while not self._starts or not self._ended.is_set():
            begun = time.monotonic()
            subprocess.run([*PROGRAM, "--version"], check=True, stdout=subprocess.DEVNULL)
            self._starts.append(time.monotonic() - begun)
            self._ended.wait(QUIET_START)

    def allowed(self, seconds: float) -> float:
        """Return how long something may take here that takes `seconds` on an idle machine."""
        return seconds * max(1.0, statistics.mean(self._starts) / QUIET_START)


def replaced(lab: Laboratory, old: Pod) -> float:
    """Have a pod deleted and its successor begun; return the seconds until that one served a client."""
    begun = time.monotonic()
    old.proxy.terminate()
    new = successor(lab)
    old.ends()
    new.serve()
    until(lambda: served(lab, new), "an answer of the new pod")
    return time.monotonic() - begun


def test_a_deleted_pod_that_is_idle_is_replaced_in_6_s(lab: Laboratory, pod: Pod) -> None:
    with Pace() as pace:
        took = replaced(lab, pod)
    print(f"idle: {took:.1f} s")  # noqa: T201
    assert took < pace.allowed(6.0)


def test_an_open_tunnel_costs_the_drain_and_no_more(lab: Laboratory, pod: Pod) -> None:
    with Pace() as pace, tunnel(lab, pod) as (sock, _):
        took = replaced(lab, pod)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b"", "the tunnel ended with the pod"
    print(f"with an open tunnel: {took:.1f} s")  # noqa: T201
    assert DRAIN_SECONDS < took < pace.allowed(10.0)


def test_a_killed_container_serves_again_in_2_s(lab: Laboratory, pod: Pod) -> None:
    with Pace() as pace, tunnel(lab, pod):
        begun = time.monotonic()
        pod.proxy.send_signal(signal.SIGKILL)
        pod.proxy.wait(WAIT_SECONDS)
        pod.restart()
        until(lambda: served(lab, pod), "an answer of the container that was begun again")
        took = time.monotonic() - begun
    print(f"killed: {took:.1f} s")  # noqa: T201
    assert took < pace.allowed(2.0)
