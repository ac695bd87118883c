"""Ports for servers under test, none of them twice, whoever else runs tests on this machine.

They lie below those that the kernel gives to outgoing connections, so none of these takes one. Each test runner
leases ranges of them: a range belongs to the process that holds the abstract socket of its name, and is free when
that process has ended, however it ended. Such names belong to a network namespace, as ports do.

A lease is for all addresses of the loopback network. A test that wants one port on several of them, or a port that
nobody listens on, takes it from here.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIRST, _END, _STRETCH = 12_000, 32_000, 100
_MOST = 1_000  # that a process leases: more than one test needs; then those that are free again are given out again
_LEASES: dict[int, socket.socket] = {}  # by the first port


def _lease(first: int) -> bool:
    lease = socket.socket(socket.AF_UNIX)
    try:
        lease.bind(f"\0egress-router-tests-port-{first}")
    except OSError:
        lease.close()
        return False
    _LEASES[first] = lease
    return True


def _leased() -> Iterator[int]:
    had: list[int] = []
    for first in range(_FIRST, _END, _STRETCH):
        if _lease(first):
            ports = range(first, first + _STRETCH)
            had += ports
            yield from ports
            if len(had) >= _MOST:
                break
    assert had, "all ports are leased to other test runners"
    yield from itertools.cycle(had)


_PORTS = _leased()


def own_address() -> str:
    """Return a loopback address that no other test runner uses: a port of it is this one's, whichever it is."""
    if not _LEASES:
        free_port()
    return f"127.1.0.{1 + (next(iter(_LEASES)) - _FIRST) // _STRETCH}"


def free_port() -> int:
    """Return a port that nobody listens on."""
    while True:
        port = next(_PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
