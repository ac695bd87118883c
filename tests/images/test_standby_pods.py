"""Two pods that the chart renders share one source address: traffic goes on when one is lost."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING

import pytest

from egress_router.lab import wiring
from egress_router.lab.network import GATEWAY, SOURCE
from egress_router.lab.wire_watch import WireWatch
from tests.images.asking import get
from tests.images.test_chart_pods import rendered
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.images.node import Node, Sandbox

VALUES: dict[str, object] = {
    "source": f"{SOURCE}/24",
    "gateway": GATEWAY,
    "interface": {"provider": "okd"},
    # Lease and EndpointSlice need an API server.
    "standby": {"enabled": True, "lease": False, "service": False},
}
PORTS = ("port1", "port9")
DESTINATIONS = {
    "redirect": "80 tcp 203.0.113.25\n",
    "http-proxy": "*.example.org\n",
    "dns-proxy": "80 www.example.org\n",
}


@pytest.fixture
def pods(node: Node) -> Iterator[tuple[Sandbox, Sandbox]]:
    """The networks of two pods on two nodes."""
    lab = node.lab
    wiring.join(lab.node, "uplink9", (lab.gateway, "wire", PORTS[1]))
    with contextlib.ExitStack() as stack:
        stack.callback(lab.node.ip, "link delete uplink9")
        yield (
            stack.enter_context(node.sandbox(macvlan=True)),
            stack.enter_context(node.sandbox(macvlan=True, parent="uplink9")),
        )


def status(sandbox: Sandbox) -> dict[str, object]:
    """Return what the pod says of its group."""
    with contextlib.suppress(OSError, ValueError), socket_to(sandbox, 9797) as sock:
        sock.sendall(b"GET /status HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        body = b"".join(iter(lambda: sock.recv(65536), b"")).partition(b"\r\n\r\n")[2]
        said: dict[str, object] = json.loads(body).get("standby") or {}
        return said
    return {}


def socket_to(sandbox: Sandbox, port: int) -> socket.socket:
    sock = sandbox.node.lab.client.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.settimeout(2)
        sock.connect((sandbox.address, port))
    except OSError:
        sock.close()
        raise
    return sock


def source_seen(sandbox: Sandbox, port: int) -> str | None:
    """Return from where a server outside was reached through the pod; None where it was not."""
    with contextlib.suppress(OSError, ValueError), socket_to(sandbox, port) as sock:
        return str(json.loads(sock.makefile().readline())["source"])
    return None


def source_by_proxy(sandbox: Sandbox) -> str | None:
    """Return the same for the pod's HTTP proxy."""
    with contextlib.suppress(OSError, ValueError), socket_to(sandbox, 8080):
        return get(sandbox, "http://www.example.org:8000/").source or None
    return None


def roles(pods: tuple[Sandbox, Sandbox]) -> list[str]:
    return [str(status(pod).get("role")) for pod in pods]


@pytest.mark.parametrize("loss", ["kill", "stop"])
@pytest.mark.parametrize("mode", ["redirect", "http-proxy", "dns-proxy"])
def test_the_pair_goes_on_without_one(pods: tuple[Sandbox, Sandbox], mode: str, loss: str) -> None:
    values = VALUES | {"mode": mode, "destinations": DESTINATIONS[mode]}
    if mode == "redirect":
        values["sysctls"] = [{"name": "net.ipv4.ip_forward", "value": "1"}]
    names = ("bank", "bank2")
    lab = pods[0].node.lab
    with WireWatch(lab.gateway, PORTS, (SOURCE,)) as watch:
        for pod, name in zip(pods, names, strict=True):
            pod.play(*rendered(pod, values, name=name))
        until(lambda: sorted(roles(pods)) == ["active", "standby"], "an active pod and one that stands by")
        number = roles(pods).index("active")
        active, other = pods[number], pods[1 - number]

        def source(pod: Sandbox) -> str | None:
            return source_by_proxy(pod) if mode == "http-proxy" else source_seen(pod, 80)

        until(lambda: source(active) == SOURCE, "traffic through the active pod")
        assert source(other) is None
        active.podman("pod", loss, f"{names[number]}-egress-router")
        until(lambda: source(other) == SOURCE, "traffic through the other pod")
        until(lambda: status(other).get("role") == "active", "the other pod's status")
        assert not watch.second_owner()
