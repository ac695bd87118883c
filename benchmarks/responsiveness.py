"""`python -m benchmarks.responsiveness [--quick]`: start-up, memory, and latency while Python is busy.

Latency is measured in an open loop: from the time when a message was due. Python burns 50 ms of every 200 in
the event loop of the relaying process; for a peer, another process burns as much. The bare relay in C beside
the same burner shows what the scheduler alone costs: the figure to compare ours with on a busy machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import contestants
from benchmarks.contestants import ECHO_PORT, FORWARD_ECHO_PORT, Contestant, answers, process_of, running
from benchmarks.table import keep_text
from benchmarks.workloads import Tools, tools
from egress_router.relay.dataplane import DataPlane, Forwarding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from egress_router.grammar.address import Target
    from egress_router.relay.news import Sums

_BURN, _PERIOD = 0.05, 0.2  # seconds
_CONNECTIONS, _RATE, _SECONDS = 20, 1_000, 10


def main() -> None:
    """Run both parts; `burn` and `relay` are for the processes that these start."""
    match sys.argv[1:]:
        case ["burn"]:
            asyncio.run(_burn())
        case ["relay"]:
            asyncio.run(_relay_and_burn())
        case arguments:
            rounds = 1 if "--quick" in arguments else 5
            with tools() as made, made.origin():
                _start_up(made, rounds)
                _latency(made, rounds)


def _start_up(made: Tools, rounds: int) -> None:
    peers = [
        contestants.http_proxy(),
        contestants.dns_proxy(),
        contestants.squid(),
        contestants.tinyproxy(),
        contestants.haproxy(),
        contestants.nginx_stream(),
        made.floor(),
    ]
    names = [f"{peer.name} ({mode})" for peer, mode in zip(peers, ["http-proxy", "dns-proxy"], strict=False)]
    names += [peer.name for peer in peers[2:]]
    seen: list[list[tuple[float, int]]] = [[] for _ in peers]
    for _ in range(rounds):
        for peer, found in zip(peers, seen, strict=True):
            found.append(_started(peer))
    lines = ["| contestant | start to first answer | memory then |", "|---|---|---|"]
    for name, found in zip(names, seen, strict=True):
        seconds = statistics.median(each for each, _ in found)
        memory = statistics.median(each for _, each in found)
        lines.append(f"| {name} | {seconds * 1000:,.0f} ms | {memory / 1024:.1f} MiB |")
    _show("start", "From the start to the first answer, and memory (proportional set size) then", lines)


def _started(peer: Contestant) -> tuple[float, int]:
    began = time.monotonic()
    with process_of(peer) as process:
        while not answers(peer.port, 0.5):
            if time.monotonic() > began + 60:
                raise SystemExit(f"{peer.name} does not answer on port {peer.port}")
        seconds = time.monotonic() - began
        time.sleep(1.0)
        return seconds, process.memory_kib()


def _latency(made: Tools, rounds: int) -> None:
    ours = Contestant(
        "egress-router",
        lambda _: [sys.executable, "-m", "benchmarks.responsiveness", "relay"],
        {"PYTHONPATH": str(Path(__file__).parents[1])},
        FORWARD_ECHO_PORT,
    )
    lines = ["| contestant | p50 | p99 | p99.9 | longest |", "|---|---|---|---|---|"]
    peers = (ours, made.floor(), contestants.haproxy(), contestants.nginx_stream())
    seen: list[list[dict[str, float]]] = [[] for _ in peers]
    for _ in range(rounds):  # in turns, so that all run under the same conditions
        for peer, found in zip(peers, seen, strict=True):
            with running(peer), contextlib.nullcontext() if peer is ours else _burning():
                found.append(made.open_loop(FORWARD_ECHO_PORT, _CONNECTIONS, _RATE, _SECONDS))
    lines += [f"| {peer.name} | {_times(found)} |" for peer, found in zip(peers, seen, strict=True)]
    title = "Round trips in an open loop while Python is busy for 50 ms of every 200"
    _show("busy", title, lines)


def _times(found: Sequence[dict[str, float]]) -> str:
    names = ("p50_us", "p99_us", "p999_us", "max_us")
    medians = [statistics.median(each[name] for each in found) / 1000 for name in names]
    return " | ".join(f"{value:.2f} ms" for value in medians)


def _show(name: str, title: str, lines: Sequence[str]) -> None:
    text = "\n".join([*lines, ""])
    print(f"{title}\n\n{text}")
    keep_text(name, title, text)


@contextlib.contextmanager
def _burning() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.responsiveness", "burn"], env=os.environ)
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def _burn() -> None:
    while True:
        until = time.perf_counter() + _BURN
        while time.perf_counter() < until:
            sum(range(1_000))
        await asyncio.sleep(_PERIOD - _BURN)


class _Line(Forwarding):
    """A line for which nothing is counted."""

    def __init__(self) -> None:
        super().__init__(10.0, 60.0, 0, False)

    def wanted(self) -> None: ...

    def summed(self, sums: Sums) -> None: ...

    def answered(self, target: Target, count: int) -> None: ...


async def _relay_and_burn() -> None:
    plane = DataPlane(asyncio.get_running_loop())
    line = _Line()
    plane.aim(line, ((ip_address("127.0.0.1"), ECHO_PORT),), 1)
    listener = socket.create_server(("127.0.0.1", FORWARD_ECHO_PORT), backlog=1024)
    listener.setblocking(False)
    plane.listen(listener, line)
    await _burn()


if __name__ == "__main__":
    main()
