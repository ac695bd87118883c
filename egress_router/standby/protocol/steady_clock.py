"""A clock that never goes back, even if the machine's clock does. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egress_router.clock import Clock


class SteadyClock:
    """See `Clock`. Kernels and hypervisors have had faults; none of them may stop the heartbeat."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = -math.inf
        self._ahead = 0.0

    def monotonic(self) -> float:
        """Return seconds since some fixed moment; the time stands still when it would go back."""
        now = self._clock.monotonic() + self._ahead
        if now < self._last:
            self._ahead += self._last - now
            now = self._last
        self._last = now
        return now

    def time(self) -> float:
        """Return seconds since 1970-01-01 UTC; for people only."""
        return self._clock.time()
