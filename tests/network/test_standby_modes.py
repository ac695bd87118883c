"""A pair of routers with more than one address, beside a proxy, and with a great many lines."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from egress_router.lab import wiring
from egress_router.lab.network import GATEWAY, GATEWAY_V6, SERVERS, SERVERS_V6, SOURCE, SOURCE_V6
from egress_router.lab.pair import Pair
from egress_router.lab.wire_watch import WireWatch
from egress_router.standby.protocol.timing import DEFAULT
from tests.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from egress_router.lab.side import Side

SECOND = "192.168.12.100"
CLIENT_V6, PODS_V6 = "fd00:10:128::10", ("fd00:10:128::2", "fd00:10:128::3")
SECONDS = 60


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Pair() as built:
        built.serve()
        yield built


def source_seen(pair: Pair, address: str, port: int) -> str | None:
    """Connect from the client to a pod; return from where the external server was reached, if it was."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with pair.client.socket(family, socket.SOCK_STREAM) as sock, contextlib.suppress(OSError, ValueError):
        sock.settimeout(1)
        sock.connect((address, port))
        return str(json.loads(sock.makefile().readline())["source"])
    return None


def serving_one(pair: Pair, serves: Callable[[Side], bool], what: str) -> tuple[Side, Side]:
    """Wait for a router that serves while the other one could take over at once.

    Both at one time: on a machine that is busy, the two may change places while they are looked at.
    """
    found: list[Side] = []

    def is_there() -> bool:
        found[:] = [
            side for side in pair.sides if pair.is_standby(pair.sides[1 - side.number]) and serves(side)
        ]
        return bool(found)

    until(is_there, what)
    return found[0], pair.sides[1 - found[0].number]


DUAL = {
    "EGRESS_SOURCE": f"{SOURCE}/24,{SOURCE_V6}/64",
    "EGRESS_GATEWAY": f"{GATEWAY},{GATEWAY_V6}",
    "EGRESS_DESTINATION": f"80 tcp {SERVERS[0]}\n80 tcp {SERVERS_V6[0]}\n",
}


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_both_families_move_together(pair: Pair, end: signal.Signals) -> None:
    wiring.address(pair.client, "eth0", f"{CLIENT_V6}/64")
    for side in pair.sides:
        wiring.address(side.pod, "eth0", f"{PODS_V6[side.number]}/64")
        pair.start(side, DUAL)

    def is_by(side: Side) -> bool:
        found = source_seen(pair, side.address, 80), source_seen(pair, PODS_V6[side.number], 80)
        return found == (SOURCE, SOURCE_V6)

    active, other = serving_one(pair, is_by, "both families by the active one")
    active.signal(end)
    until(lambda: is_by(other), "both families by the other one")
    assert not pair.wire.second_owner()


def test_all_source_addresses_move_together(pair: Pair) -> None:
    lines = f"80 tcp {SERVERS[0]}\n81 tcp {SERVERS[0]} 80 from {SECOND}\n"
    watch = pair.holds(WireWatch(pair.gateway, ("cable0", "cable1"), (SOURCE, SECOND)))
    for side in pair.sides:
        pair.start(side, {"EGRESS_SOURCE": f"{SOURCE}/24,{SECOND}/24", "EGRESS_DESTINATION": lines})

    def is_by(side: Side) -> bool:
        return [source_seen(pair, side.address, port) for port in (80, 81)] == [SOURCE, SECOND]

    active, other = serving_one(pair, is_by, "both addresses by the active one")
    assert source_seen(pair, other.address, 81) is None
    active.signal(signal.SIGKILL)
    until(lambda: is_by(other), "both addresses by the other one")
    assert not watch.second_owner()


@pytest.mark.parametrize("is_sidecar_last", [False, True], ids=["at once", "the sidecar last"])
def test_a_proxy_pod_that_is_deleted_hands_over(pair: Pair, is_sidecar_last: bool) -> None:
    """Its containers are asked to end together, or the sidecar (a restartable init container) after the others."""
    mode = {"EGRESS_ROUTER_MODE": "http-proxy", "EGRESS_DESTINATION": ""}
    rules = {"EGRESS_HTTP_PROXY_DESTINATION": "*", "EGRESS_WORKERS": "1", "EGRESS_LOG_LEVEL": "error"}
    proxies: list[subprocess.Popen[str]] = []
    for side in pair.sides:
        pair.start(side, mode)
        proxies.append(side.pod.start([sys.executable, "-m", "egress_router", "http-proxy"], rules))
    active, other = serving_one(
        pair, lambda side: source_through_proxy(pair, side) == SOURCE, "the active pod's proxy"
    )
    waited = other.waited()
    proxies[active.number].send_signal(signal.SIGTERM)
    if not is_sidecar_last:
        active.signal(signal.SIGTERM)
    until(lambda: source_through_proxy(pair, other) == SOURCE, "the other pod's proxy")
    waited = other.waited() - waited
    until(lambda: pair.status(other).get("took") is not None, "the other pod's status")
    took = pair.told(other)["took"]
    assert isinstance(took, float)
    # Besides what it waited for a processor, on a machine that is busy.
    assert took - waited < DEFAULT.hold_off, "it waited until the lease of the other one had to be over"
    assert proxies[active.number].wait(SECONDS) == 0
    router = active.router
    assert router is not None

    def has_ended() -> bool:
        router.send_signal(signal.SIGTERM)  # also while it ends, where a further signal changes nothing
        return router.poll() is not None

    until(has_ended, "the end of the router")
    assert router.returncode == 0
    assert not pair.wire.second_owner()


def source_through_proxy(pair: Pair, side: Side) -> str | None:
    """Have a pod's proxy open a tunnel to the external server; return from where that was reached."""
    with (
        pair.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock,
        contextlib.suppress(OSError, ValueError),
    ):
        sock.settimeout(2)
        sock.connect((side.address, 8080))
        sock.sendall(f"CONNECT {SERVERS[0]}:80 HTTP/1.1\r\nHost: {SERVERS[0]}:80\r\n\r\n".encode())
        answer = sock.makefile()
        if " 200 " not in answer.readline():
            return None
        while answer.readline().strip():
            pass
        return str(json.loads(answer.readline())["source"])
    return None


def test_a_great_many_lines_do_not_cost_the_right(pair: Pair, tmp_path: Path) -> None:
    """While the kernel takes the lines in, requests of the standby wait for its lock."""
    # Without root of the machine, the message is bounded by net.core.wmem_max.
    owns_machine = Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
    count = 30_000 if owns_machine and os.getuid() == 0 else 1_000
    rules = tmp_path / "destination"
    rules.write_text(f"80 tcp {SERVERS[0]}\n")
    for side in pair.sides:
        pair.start(side, {"EGRESS_DESTINATION": "", "EGRESS_DESTINATION_FILE": str(rules)})
    active, _ = serving_one(pair, lambda side: source_seen(pair, side.address, 80) == SOURCE, "a pair")
    before, waited = pair.told(active)["losses"], active.waited()
    many = [f"{port} tcp 203.0.113.{port % 250 + 1} 443\n" for port in range(10_000, 10_000 + count)]
    rules.write_text(f"80 tcp {SERVERS[0]}\n{''.join(many)}1 tcp {SERVERS[0]} 80\n")
    until(
        lambda: any(source_seen(pair, side.address, 1) == SOURCE for side in pair.sides),
        "the last line to be in force",
    )
    told, waited = pair.told(active), active.waited() - waited
    # A router without a processor for as long as its lease lasts loses it, whatever the lines.
    assert (told["role"], told["losses"]) == ("active", before) or waited > DEFAULT.lease
    assert not pair.wire.second_owner()
