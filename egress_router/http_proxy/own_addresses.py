"""Addresses of this pod and of its neighbours, to which the proxy must not connect."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from egress_router.clock import SYSTEM
from egress_router.net.own import addresses, neighbours
from egress_router.policy.access_list import Own

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.clock import Clock

_FRESH_SECONDS = 5.0


def seen(egress: str) -> Own:
    """Return the addresses of this network namespace and its neighbours; `egress`: the outside interface.

    Raises:
        OSError: the kernel cannot be asked.
    """
    return Own(addresses(), frozenset(), neighbours(egress))


class OwnAddresses:
    """The addresses and neighbours that `look` returns, at most a few seconds old, with the proxy's ports."""

    def __init__(self, ports: frozenset[int], look: Callable[[], Own], clock: Clock = SYSTEM) -> None:
        self._look = look
        self._clock = clock
        self._own = replace(look(), ports=ports)
        self._until = clock.monotonic() + _FRESH_SECONDS

    def add_ports(self, ports: frozenset[int]) -> None:
        """Add these ports to those on which the pod serves."""
        self._own = replace(self._own, ports=self._own.ports | ports)

    @property
    def until(self) -> float:
        """When to look again, by the monotonic clock."""
        return self._until

    def current(self) -> Own:
        """Return the addresses and ports."""
        now = self._clock.monotonic()
        if now >= self._until:
            # If no file descriptor is left for reading them, the last known ones are used.
            with contextlib.suppress(OSError):
                self._own = replace(self._look(), ports=self._own.ports)
            self._until = now + _FRESH_SECONDS
        return self._own
