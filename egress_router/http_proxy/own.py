"""What is this pod's own, which the proxy is not to be led to."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from egress_router.http_proxy.policy import Own
from egress_router.kernel.gateway import addresses

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress

_FRESH_SECONDS = 5.0


class OwnPlaces:
    """The addresses of this network namespace and the proxy's ports, not older than a few seconds."""

    def __init__(self, ports: frozenset[int]) -> None:
        self._own = Own(_addresses(), ports)
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
                self._own = Own(_addresses(), self._own.ports)
            self._until = now + _FRESH_SECONDS
        return self._own


def _addresses() -> frozenset[IPAddress]:
    return frozenset(address for _, address in addresses())
