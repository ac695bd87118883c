"""What the kernel itself needs for NAT: from plain routing to our rules, one step after another.

Client and server are one thread on one CPU, with real-time priority (load/alone.c); haproxy runs on the same
CPU with that priority. So elapsed time is the work of the whole machine, also while other processes are busy.
"""

from __future__ import annotations

import os
import statistics
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.topology import (
    BY_ADDRESS,
    ECHO,
    FORWARDED,
    HTTP,
    NAMED,
    REDIRECTED,
    ROUTED,
    ROUTER,
    SERVER,
    SOURCE,
    Topology,
    Way,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS, BATCHES = 20, 40
# The last one, because the first ones serve more interrupts.
CPU = (os.cpu_count() or 1) - 1
_REALTIME = 1
# What each step adds to the previous one. Hooks and priorities are those of our rules.
_TRACK = "chain arrive { type filter hook prerouting priority mangle; ct state invalid drop; }"
_DNAT = f"""chain destinations {{ type nat hook prerouting priority dstnat;
  dnat ip to tcp dport map {{ {BY_ADDRESS} : {SERVER} . {HTTP}, {BY_ADDRESS + 1} : {SERVER} . {ECHO} }}; }}"""
_SNAT = "chain sources {{ type nat hook postrouting priority srcnat; oifname macvlan0 meta l4proto tcp {}; }}"
_KERNELS_PORT = _SNAT.format(f"snat ip to {SOURCE}")
_TURN = _SNAT.format(f"snat ip to {SOURCE}:numgen inc mod 64512 offset 1024")
_FILTER = """chain forward { type filter hook forward priority filter; policy drop;
  ct state established,related accept; ct status dnat accept; }"""
_SETS = f"""
set used {{ type ipv4_addr . inet_service . inet_service; size 262144; flags dynamic,timeout; timeout 61s; }}
chain sources {{ type nat hook postrouting priority srcnat; oifname macvlan0 meta l4proto tcp jump next; }}
chain next {{
  tcp sport set numgen inc mod 64512 offset 1024 << 16
  tcp sport 0 tcp sport set numgen inc mod 64512 offset 1024
  ip daddr . tcp dport . tcp sport @used return;
  update @used {{ ip daddr . tcp dport . tcp sport timeout 130s }} snat ip to {SOURCE}:tcp sport
}}
chain forward {{ type filter hook forward priority filter; policy drop;
  ct state established,related jump learn; ct status dnat accept; }}
chain learn {{
  tcp flags & (fin | syn | rst) == 0 accept
  iifname != macvlan0 update @used {{ ip daddr . tcp dport . ct reply proto-dst timeout 61s }} accept
  tcp flags & syn != 0 update @used {{ ip saddr . tcp sport . ct reply proto-dst timeout 5d }} accept
  update @used {{ ip saddr . tcp sport . ct reply proto-dst timeout 61s }} accept
}}"""


BARE = Way(
    "DNAT, SNAT with the port that the kernel chooses", ROUTER, BY_ADDRESS, f"{_DNAT}\n{_KERNELS_PORT}"
)
FREE = Way("and ports in turn that no other connection has", ROUTER, BY_ADDRESS, f"{_DNAT}\n{_SETS}")
STEPS = (
    ROUTED,
    replace(ROUTED, name="connection tracking alone", rules=_TRACK),
    BARE,
    replace(BARE, name="DNAT, SNAT with ports in turn", rules=f"{_DNAT}\n{_TURN}"),
    replace(BARE, name="and only what was redirected passes", rules=f"{_DNAT}\n{_TURN}\n{_FILTER}"),
    FREE,
    REDIRECTED,
    NAMED,
    FORWARDED,
)


def by_step() -> Iterator[tuple[str, ...]]:
    """Yield head and rows: microseconds of the machine beyond plain routing, and the ratio to haproxy's."""
    yield "", "short connection µs", "round trip µs", "of haproxy: connection", "round trip"
    found: dict[Way, list[tuple[float, float]]] = {step: [] for step in STEPS}
    with Topology(serves=False) as topology:
        topology.remember_closed(does=False)
        _use_one_cpu(topology.haproxy.pid)
        for number in range(ROUNDS):
            # Forwards and backwards in turn, so that a drift of the machine's speed favours no step.
            for step in STEPS if number % 2 else reversed(STEPS):
                found[step].append(costs(topology, step))
    routed, theirs = found[STEPS[0]], found[STEPS[-1]]
    floor = [statistics.median(each) for each in zip(*routed, strict=True)]
    yield STEPS[0].name, *(f"{each:.2f} in all" for each in floor), "", ""
    limit = beyond(theirs, routed)
    for step in STEPS[1:]:
        more = beyond(found[step], routed)
        shares = (f"{mine / peer:.2f}" for mine, peer in zip(more, limit, strict=True))
        yield step.name, *(f"{each:.2f}" for each in more), *shares


def beyond(found: list[tuple[float, float]], routed: list[tuple[float, float]]) -> list[float]:
    """Return the medians of the time beyond what plain routing took in the same round."""
    pairs = list(zip(found, routed, strict=True))
    return [statistics.median(mine[index] - floor[index] for mine, floor in pairs) for index in (0, 1)]


def costs(topology: Topology, way: Way) -> tuple[float, float]:
    """Return the microseconds of a short connection and of a round trip in one run."""
    topology.take(way)
    topology.forget_connections()
    numbers = (way.address, way.port, CPU, BATCHES)
    words = ("alone", topology.server.path, HTTP, *numbers)
    command = topology.client.command(topology.tool(words[0]), *map(str, words[1:]))
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout.split()
    return float(output[0]), float(output[1])


def _use_one_cpu(pid: int) -> None:
    os.sched_setaffinity(pid, {CPU})
    os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(_REALTIME))
