"""The addresses of this network namespace, which need no privilege to be known."""

from __future__ import annotations

import contextlib
import time
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router.http_proxy.policy import Own

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress

_FRESH_SECONDS = 5.0
_PROC = Path("/proc/net")


def own_addresses(proc: Path = _PROC) -> frozenset[IPAddress]:
    """Return every address of this namespace's interfaces.

    Raises:
        OSError: /proc cannot be read.
    """
    v4 = (proc / "fib_trie").read_text(encoding="ascii")
    v6 = proc / "if_inet6"  # not there where IPv6 is off
    return frozenset(_v4(v4)) | frozenset(_v6(v6.read_text(encoding="ascii")) if v6.exists() else ())


def _v4(trie: str) -> list[IPv4Address]:
    """Read the leaves `|-- ADDRESS` that are followed by `/32 host LOCAL` (net/ipv4/fib_trie.c)."""
    found = []
    leaf = ""
    for line in trie.splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            leaf = words[1]
        elif words == ["/32", "host", "LOCAL"]:
            found.append(IPv4Address(leaf))
    return found


def _v6(table: str) -> list[IPv6Address]:
    return [IPv6Address(int(line.split()[0], 16)) for line in table.splitlines()]


class OwnPlaces:
    """What is this pod's own, not older than a few seconds."""

    def __init__(self, ports: frozenset[int]) -> None:
        self._own = Own(own_addresses(), ports)
        self._until = time.monotonic() + _FRESH_SECONDS

    def add_ports(self, ports: frozenset[int]) -> None:
        """Count these ports, too, as those on which the pod serves."""
        self._own = Own(self._own.addresses, self._own.ports | ports)

    def current(self) -> Own:
        """Return the addresses and ports."""
        now = time.monotonic()
        if now >= self._until:
            # Without a descriptor left to read them with, those known last have to do.
            with contextlib.suppress(OSError):
                self._own = Own(own_addresses(), self._own.ports)
            self._until = now + _FRESH_SECONDS
        return self._own
