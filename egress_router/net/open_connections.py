"""The open connections of clients to the ports of this pod, and where the pod's other connections lead.

They are read from the kernel's table (/proc/net/tcp, proc(5)) when somebody asks, which costs the connections
nothing.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from egress_router.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from egress_router.grammar.address import IPAddress

# One of our addresses, and an address and port that its connections lead to.
Way: TypeAlias = "tuple[IPAddress, tuple[IPAddress, int]]"
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_MAX_LINES = 100_000
_ESTABLISHED = "01"
_LOCAL, _REMOTE, _STATE = 1, 2, 3


@dataclass(frozen=True, slots=True)
class OpenConnections:
    """Open connections by client, by destination (address and port), and by own address and destination."""

    clients: Counter[IPAddress] = field(default_factory=Counter)
    destinations: Counter[tuple[IPAddress, int]] = field(default_factory=Counter)
    ways: Counter[Way] = field(default_factory=Counter)


def read(ports: Collection[int], others: Collection[int] = ()) -> OpenConnections:
    """Read the table; clients come to `ports`, and what comes to `others` (administration) is left out.

    Raises:
        RefusedError: no descriptor or memory is free.
    """
    found = OpenConnections()
    for path in _TABLES:
        try:
            with path.open(encoding="ascii") as lines:
                add(found, itertools.islice(lines, 1, _MAX_LINES), ports, others)
        except FileNotFoundError:  # a kernel without IPv6
            continue
        except OSError as error:
            what = f"cannot read {path} ({error.strerror})"
            raise RefusedError(what, "raise the limits of open files and memory") from None
    return found


def add(into: OpenConnections, lines: Iterable[str], ports: Collection[int], others: Collection[int]) -> None:
    """Count the connections of a table's lines."""
    for line in lines:
        words = line.split(maxsplit=4)
        if len(words) < 5 or words[_STATE] != _ESTABLISHED:
            continue
        local = int(words[_LOCAL][-4:], 16)
        if local in others:
            continue
        address, _, port = words[_REMOTE].partition(":")
        if local in ports:
            into.clients[_address(address)] += 1
        else:
            destination = _address(address), int(port, 16)
            into.destinations[destination] += 1
            into.ways[_address(words[_LOCAL].partition(":")[0]), destination] += 1


def _address(text: str) -> IPAddress:
    # Words of four bytes, each in this machine's byte order.
    words = (bytes.fromhex(text[index : index + 8]) for index in range(0, len(text), 8))
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    if len(packed) == 4:
        return IPv4Address(packed)
    address = IPv6Address(packed)
    return address.ipv4_mapped or address
