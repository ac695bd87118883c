"""`python -m benchmarks.proxies http|dns|connect [--quick]`: the proxies beside squid, tinyproxy and haproxy.

Contestants take turns for several rounds; the figure to compare is the CPU time of all processes of one.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks import contestants
from benchmarks.contestants import (
    ECHO_PORT,
    FORWARD_ECHO_PORT,
    FORWARD_PORT,
    ORIGIN_PORT,
    Contestant,
    running,
)
from benchmarks.table import Entry, keep
from benchmarks.workloads import Result, Tools, Workload, tools

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

ROUNDS = 5
BULK = 256 << 20

HTTP = (
    Workload("CONNECT, GET, close", "churn", "connect", 64, 8_000),
    Workload("GET, keep-alive", "keepalive", "absolute", 64, 40_000),
    Workload("GET, one a connection", "churn", "absolute", 64, 8_000),
    Workload("round trip in a tunnel", "ping", "connect", 64, 40_000),
    Workload("bulk, one direction", "down", "connect", 4, 8, BULK, "s/GiB"),
    Workload("bulk, both directions", "both", "connect", 4, 8, BULK, "s/GiB"),
    Workload("idle tunnel, memory", "idle", "connect", 4_000, 0, unit="KiB"),
)
DNS = (
    Workload("connect, GET, close", "churn", "direct", 64, 8_000),
    Workload("round trip", "ping", "direct", 64, 40_000),
    Workload("bulk, one direction", "down", "direct", 4, 8, BULK, "s/GiB"),
    Workload("bulk, both directions", "both", "direct", 4, 8, BULK, "s/GiB"),
    Workload("idle connection, memory", "idle", "direct", 4_000, 0, unit="KiB"),
)
CONNECT_CHURN = HTTP[0]
MANY = 50_000


def main() -> None:
    """Run the suite that the command line names."""
    rounds = 1 if "--quick" in sys.argv else ROUNDS
    with tools() as made, made.origin():
        if "http" in sys.argv:
            _http(made, rounds)
        if "connect" in sys.argv:  # the results are only printed
            _compare(made, [CONNECT_CHURN], _http_peers(), rounds)
        if "dns" in sys.argv:
            entries = _compare(
                made,
                DNS,
                [contestants.dns_proxy(), contestants.haproxy(), contestants.nginx_stream(), made.floor()],
                rounds,
            )
            entries += _direct(made, DNS, rounds)
            keep("dns_proxy", "DNS proxy mode beside haproxy and nginx, one thread each", entries)


def _http_peers() -> list[Contestant]:
    return [contestants.http_proxy(), contestants.squid(), contestants.tinyproxy()]


def _http(made: Tools, rounds: int) -> None:
    peers = _http_peers()
    # tinyproxy has a thread for each connection, and closes it after each answer.
    entries = _compare(made, HTTP, peers, rounds, {("tinyproxy", "idle"), ("tinyproxy", "keepalive")})
    entries += _direct(made, HTTP, rounds)
    keep("http_proxy", "HTTP proxy mode beside squid and tinyproxy, one worker each", entries)
    _rules_and_workers(made, rounds)


def _rules_and_workers(made: Tools, rounds: int) -> None:
    """Compare many rules with few, and two workers with one, by short CONNECTs."""
    ours = "".join(f"!host{number}.example.com\n" for number in range(MANY)) + "127.0.0.0/8\n"
    theirs = "".join(
        f"acl dest{number} dstdomain host{number}.example.com\nhttp_access deny dest{number}\n"
        for number in range(MANY)
    )
    peers = [
        contestants.http_proxy(),
        contestants.http_proxy(ours, f"egress-router, {MANY} rules"),
        contestants.http_proxy(name="egress-router, 2 workers", workers=2),
        contestants.squid(
            f"{theirs}acl last dst 127.0.0.0/8\nhttp_access allow last", f"squid, {MANY} rules"
        ),
    ]
    entries = _compare(made, (CONNECT_CHURN,), peers, rounds)
    keep("http_rules", "HTTP proxy mode: many rules, two workers", entries)


def _compare(
    made: Tools,
    workloads: Sequence[Workload],
    peers: Sequence[Contestant],
    rounds: int,
    without: Collection[tuple[str, str]] = (),
) -> list[Entry]:
    found: dict[tuple[str, str], list[Result]] = {}
    for _ in range(rounds):
        for peer in peers:
            for workload in workloads:
                if (peer.name, workload.mode) in without:
                    continue
                # A new process for each, so that no workload benefits from the memory of another.
                with running(peer) as process:
                    _warm_up(made, workload, _port(peer, workload))
                    result = made.run(workload, _port(peer, workload), process)
                found.setdefault((workload.name, peer.name), []).append(result)
                print(f"  {peer.name}: {workload.name}: {result.cost:.4g} {workload.unit}", file=sys.stderr)
    return [
        Entry(workload, peer.name, tuple(found[workload.name, peer.name]))
        for workload in workloads
        for peer in peers
        if (workload.name, peer.name) in found
    ]


def _warm_up(made: Tools, workload: Workload, port: int) -> None:
    """Send the first requests, in which all contestants fill their pools and caches."""
    if workload.unit == "µs/op":
        made.attempt(replace(workload, operations=workload.operations // 10), port)


def _direct(made: Tools, workloads: Sequence[Workload], rounds: int) -> list[Entry]:
    """Run the same work without a proxy, as the floor."""
    entries = []
    for workload in workloads:
        if workload.mode == "idle":
            continue
        plain = Workload(
            workload.name,
            workload.mode,
            "direct",
            workload.connections,
            workload.operations,
            workload.size,
            workload.unit,
        )
        port = ECHO_PORT if workload.echoes else ORIGIN_PORT
        results = tuple(made.run(plain, port, None) for _ in range(rounds))
        entries.append(Entry(plain, "no proxy", results))
    return entries


def _port(peer: Contestant, workload: Workload) -> int:
    if peer.port == FORWARD_PORT and workload.echoes:
        return FORWARD_ECHO_PORT
    return peer.port


if __name__ == "__main__":
    main()
