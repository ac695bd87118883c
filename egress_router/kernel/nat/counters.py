"""What goes through each redirected port, counted by the kernel.

The counters live in a table of their own, which stays when the rules are replaced. Their elements come with
traffic (dynamic sets), so that 30,000 lines without traffic cost nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from egress_router.errors import RefusedError
from egress_router.kernel.nat import nft

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
TABLE = "egress_router_counts"
_PROTOCOLS = ("tcp", "udp", "sctp")
_VERSIONS = (4, 6)
_ACCEPTED = "ct direction reply tcp flags & (syn | ack) == syn | ack"


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went through: connections, and packets and bytes to the destination and back.

    `begun` counts every connection once, however often its first packet is sent again; `connections` those
    that the destination accepted (TCP), or all (UDP and SCTP, where no packet of the kernel's says so).
    """

    connections: int = 0
    sent_packets: int = 0
    sent_bytes: int = 0
    received_packets: int = 0
    received_bytes: int = 0
    begun: int = 0

    @property
    def failures(self) -> int:
        """Connections that were not accepted, among them those that still wait for it."""
        return max(0, self.begun - self.connections)

    def plus(self, other: Traffic) -> Traffic:
        """Return the sum."""
        return Traffic(
            self.connections + other.connections,
            self.sent_packets + other.sent_packets,
            self.sent_bytes + other.sent_bytes,
            self.received_packets + other.received_packets,
            self.received_bytes + other.received_bytes,
            self.begun + other.begun,
        )


# Traffic by protocol, family and local port.
Counts = dict[tuple[str, int, int], Traffic]


def declaration() -> str:
    """Return the text that makes nft count, for a transaction; counts so far stay."""
    names = [(f"{protocol}{version}", protocol, version) for version in _VERSIONS for protocol in _PROTOCOLS]
    lines = [f"add table inet {TABLE}", f"table inet {TABLE} {{"]
    for name, _, _ in names:
        # As large as there are ports, so that a scan cannot fill them.
        kind = "{ type inet_service; size 65536; flags dynamic; }"
        lines += [f"  set {what}_{name} {kind}" for what in ("begun", "accepted", "sent", "received")]
        lines += [f"  chain {name} {{ }}", f"  chain begun_{name} {{ }}"]
    lines += [
        "  chain forward { type filter hook forward priority filter - 1; policy accept; }",
        # A chain of type nat sees the first packet of a connection only, and not when it is sent again.
        "  chain postrouting { type nat hook postrouting priority srcnat - 1; policy accept; }",
        "}",
    ]
    chains = ["forward", "postrouting"]
    chains += [chain for name, _, _ in names for chain in (name, f"begun_{name}")]
    lines += [f"flush chain inet {TABLE} {chain}" for chain in chains]
    lines.append(f"table inet {TABLE} {{")
    for name, protocol, _ in names:
        lines += [_chain(name, protocol, _forwarded(name, protocol)), _begun(name, protocol)]
    for hook, prefix in (("forward", ""), ("postrouting", "begun_")):
        jumps = ", ".join(
            f"ipv{version} . {protocol} : jump {prefix}{name}" for name, protocol, version in names
        )
        lines.append(f"  chain {hook} {{ ct status dnat meta nfproto . meta l4proto vmap {{ {jumps} }}; }}")
    return "\n".join([*lines, "}", ""])


def _forwarded(name: str, protocol: str) -> list[str]:
    rules = [
        f"ct direction original {_counted('sent', name)}",
        f"ct direction reply {_counted('received', name)}",
    ]
    return [*rules, f"{_ACCEPTED} {_counted('accepted', name)}"] if protocol == "tcp" else rules


def _begun(name: str, protocol: str) -> str:
    return _chain(f"begun_{name}", protocol, [_counted("begun", name)])


def _counted(what: str, name: str) -> str:
    return f"add @{what}_{name} {{ ct original proto-dst counter }}"


def _chain(name: str, protocol: str, rules: list[str]) -> str:
    # The protocol is named again, because nft wants to know it before a rule speaks of ports.
    text = "".join(f"    meta l4proto {protocol} {rule}\n" for rule in rules)
    return f"  chain {name} {{\n{text}  }}"


def read() -> Counts:
    """Return what was counted so far.

    Raises:
        RefusedError: the kernel does not let this process look.
    """
    done = nft.run("-j", "list", "table", "inet", TABLE)
    if done.returncode:
        raise RefusedError("the kernel has no counters", "set EGRESS_NAT_BACKEND=nftables")
    return parsed(done.stdout)


class _Counter(TypedDict):
    packets: int
    bytes: int


class _Element(TypedDict):
    val: int
    counter: _Counter


class _Set(TypedDict, total=False):
    name: str
    elem: list[Mapping[str, _Element]]


def parsed(text: str) -> Counts:
    """Read the JSON of `nft -j list table`."""
    found: Counts = {}
    listed: list[Mapping[str, _Set]] = json.loads(text)["nftables"]
    for each in listed:
        for kind, protocol, version, element in _elements(each.get("set")):
            packets, size = element["counter"]["packets"], element["counter"]["bytes"]
            if kind == "begun":
                fresh = Traffic(begun=packets, connections=0 if protocol == "tcp" else packets)
            elif kind == "accepted":
                fresh = Traffic(connections=packets)
            elif kind == "sent":
                fresh = Traffic(sent_packets=packets, sent_bytes=size)
            else:
                fresh = Traffic(received_packets=packets, received_bytes=size)
            key = (protocol, version, element["val"])
            found[key] = found.get(key, Traffic()).plus(fresh)
    return found


def _elements(found: _Set | None) -> Iterator[tuple[str, str, int, _Element]]:
    if found is None:
        return
    kind, _, name = found["name"].partition("_")
    for each in found.get("elem", ()):
        yield kind, name[:-1], int(name[-1]), each["elem"]
