"""What the rules count, for `counters` to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PROTOCOLS = ("tcp", "udp", "sctp")
KINDS = ("begun", "accepted", "sent", "received", "denied", "closed", "refused")
# A scan meets closed ports; at most this many of them have a counter of their own.
_MAX_CLOSED = 4096
# Earlier versions had their counters here.
OLD_TABLE = "egress_router_counts"


def declarations(version: int) -> Iterator[str]:
    """Yield the sets of a family."""
    for kind in KINDS:
        for protocol in PROTOCOLS:
            # As large as there are ports, so that a scan cannot fill them.
            size = _MAX_CLOSED if kind == "closed" else 65536
            yield f"set {kind}_{protocol}{version} {{ type inet_service; size {size}; flags dynamic; }}"


def count(kind: str, protocol: str, version: int) -> str:
    """Return the statement that counts a packet for its local port."""
    return f"add @{kind}_{protocol}{version} {{ ct original proto-dst counter }}"
