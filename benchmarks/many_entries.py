"""The CPU time to put an egress policy of 10,000 entries in force in redirect mode."""

from __future__ import annotations

import json
import resource
import statistics
import time
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from egress_router.grammar.redirect import parse
from egress_router.kernel.nat import rules
from egress_router.kernel.nat.plan import Surroundings, make_plan
from egress_router.lab.host import Host
from egress_router.manifests import egress_policy
from egress_router.redirect import policy
from egress_router.settings.policy import Guarded

if TYPE_CHECKING:
    from collections.abc import Iterator

ENTRIES, ROUNDS = 10_000, 5
SOURCE = ip_address("192.168.12.99")
LINES = (1, 1_000, 10_000)


def in_force() -> Iterator[tuple[str, ...]]:
    """Yield head and rows: CPU time, by the number of lines whose destinations the entries deny."""
    yield (
        "entries",
        "lines, all denied",
        "reading the policy ms",
        "deciding and writing ms",
        "nft with the policy ms",
        "nft without it ms",
    )
    host = Host("router")
    try:
        for lines in LINES:
            rounds = [_one(host, lines) for _ in range(ROUNDS)]
            times = (f"{statistics.median(each):.0f}" for each in zip(*rounds, strict=True))
            yield f"{ENTRIES:,}", f"{lines:,}", *times
    finally:
        host.close()


def _one(host: Host, lines: int) -> tuple[float, float, float, float]:
    """Return the CPU milliseconds of reading, of deciding, and of nft with and without the policy."""
    addresses = [ip_address("198.18.0.1") + number for number in range(ENTRIES)]
    entries = [{"type": "Deny", "to": {"cidrSelector": f"{each}/32"}} for each in addresses]
    kind = {"kind": "EgressNetworkPolicy", "apiVersion": "v1", "spec": {"egress": entries}}
    text = json.dumps(kind)
    redirects = parse(
        "R", "".join(f"{10_000 + n} tcp {each} 80\n" for n, each in enumerate(addresses[:lines]))
    )
    plan = make_plan(redirects, [SOURCE], "macvlan0", 9797, Surroundings(None, (), 0), {})
    _transaction(host, rules.render(plan))
    without = _transaction(host, rules.render_again(plan))
    begun = time.process_time()
    entry_list = egress_policy.parse("P", text)
    read = time.process_time() - begun
    begun = time.process_time()
    denied = policy.denials(Guarded(redirects, entry_list), {}, {})
    if len(denied) != lines:
        raise SystemExit(f"{len(denied)} denials of {lines} lines")
    transaction = rules.render_again(replace(plan, denials=denied))
    decided = time.process_time() - begun
    return read * 1e3, decided * 1e3, _transaction(host, transaction), without


def _transaction(host: Host, text: str) -> float:
    """Run nft with this text; return the CPU milliseconds that it took, user and system."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    host.run("nft", "-f", "-", input=text)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime) * 1e3
