"""Rejected connections: counted by local port, and noted for a while with both endpoints, for records.

A rejected connection never gets an entry in conntrack, so there is no event for it. There are two cases:
`denied` by the egress policy, when it would leave; and `closed`, when the port leads nowhere at the moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.kernel.nat.counting import PROTOCOLS, count
from egress_router.kernel.nat.source_ports import TABLE, chain, keyword

if TYPE_CHECKING:
    from collections.abc import Iterator

CASES = ("denied", "closed")
# More than this many are only counted. A client that goes on sending is noted once in this time.
_MOST, _LIFETIME = 1024, "30s"


def flows_name(case: str, protocol: str, version: int) -> str:
    """Return the name of the set that notes rejected connections."""
    return f"{case}_flows_{protocol}{version}"


def declarations(version: int) -> Iterator[str]:
    """Yield the sets of a family, and the chains that other rules name."""
    address = f"ipv{version}_addr"
    # Client, its port, local port, destination, its port. With the protocol nft runs out of registers.
    kind = f"type {address} . inet_service . inet_service . {address} . inet_service"
    for case in CASES:
        for protocol in PROTOCOLS:
            name = flows_name(case, protocol, version)
            yield f"set {name} {{ {kind}; size {_MOST}; flags dynamic,timeout; timeout {_LIFETIME}; }}"
        yield f"chain note_{case}{version} {{ }}"


def chains(version: int) -> Iterator[str]:
    """Yield the chains: a noted flow is not counted again, so its datagrams count once."""
    for case in CASES:
        name = f"note_{case}{version}"
        yield f"flush chain inet {TABLE} {name}"
        yield f"table inet {TABLE} {{"
        yield from (f"  {line}" for line in chain(name, *_rules(case, version)))
        yield "}"


def note(case: str, version: int) -> str:
    """Return the statement that counts and notes what the rules after it reject."""
    return f"meta nfproto ipv{version} jump note_{case}{version}"


def _rules(case: str, version: int) -> Iterator[str]:
    ip = keyword(version)
    for protocol in PROTOCOLS:
        flows = flows_name(case, protocol, version)
        key = f"{ip} saddr . {protocol} sport . ct original proto-dst . {ip} daddr . {protocol} dport"
        yield f"meta l4proto {protocol} {key} @{flows} return"
        yield f"meta l4proto {protocol} {count(case, protocol, version)}"
        yield f"meta l4proto {protocol} add @{flows} {{ {key} }}"
