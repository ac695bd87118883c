"""`python -m benchmarks.relaid [ROUNDS]`, in a network namespace: 1,000 names lose one of 16 addresses each.

The whole way of a changed answer is measured: from the new addresses of the lines, through the plan, to the
end of the transaction. Prints the median CPU milliseconds, user and system, of this process and of nft.
"""

from __future__ import annotations

import resource
import statistics
import sys
from ipaddress import IPv4Address, ip_address

from egress_router.grammar.redirect import parse
from egress_router.kernel.nat import nftables
from egress_router.kernel.nat.plan import make_plan

NAMES, ADDRESSES = 1_000, 16
_GONE = 5  # index of the address that comes and goes
_SOURCE = (ip_address("10.2.0.1"),)


def main() -> None:
    """Remove an address of each name and add it again, ROUNDS times."""
    text = "".join(f"{10_000 + number} tcp name{number}.example.com 80\n" for number in range(NAMES))
    redirects = parse("benchmark", text)

    def lead(*, whole: bool) -> None:
        # New objects each time, as from real answers.
        resolved = {line: _addresses(number, whole=whole) for number, line in enumerate(redirects.names)}
        before = _used()
        nftables.apply(make_plan(redirects, _SOURCE, "macvlan0", 9797, resolved=resolved))
        after = _used()
        if not whole:
            times.append((after[0] - before[0], after[1] - before[1]))

    times: list[tuple[float, float]] = []
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 9):
        lead(whole=True)
        lead(whole=False)
    python, nft = (statistics.median(each) * 1e3 for each in zip(*times, strict=True))
    print(f"{python:.1f} {nft:.1f}")


def _addresses(number: int, *, whole: bool) -> tuple[IPv4Address, ...]:
    """Return the addresses of a name: no two names share one."""
    first = int(IPv4Address("10.64.0.0")) + number * ADDRESSES
    return tuple(IPv4Address(first + each) for each in range(ADDRESSES) if whole or each != _GONE)


def _used() -> tuple[float, float]:
    """Return the CPU seconds of this process and of its ended children."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main()
