"""What a router knows of its gateway, from the requests that the gateway answered. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egress_router.standby.protocol.requests import Requests
    from egress_router.standby.protocol.timing import Timing


class Gateway:
    """Whether the gateway answers, and what its answers prove.

    `is_known` says whether it ever answered; if it never did, its silence proves nothing.
    """

    __slots__ = ("_requests", "_silent_after", "_timing", "is_known", "request", "steady_from")

    def __init__(self, requests: Requests, timing: Timing) -> None:
        self._requests = requests
        self._timing = timing
        self._silent_after = 16 * timing.heartbeat
        self.request = 0  # the last request that it answered
        self.is_known = False
        # After a cable was plugged in again: until then, the silence of other routers proves nothing.
        self.steady_from = -math.inf

    def answered(self, request: int, now: float) -> None:
        """Record that it answered `request`."""
        gap = self._requests.requested_at(request, now) - self._requests.requested_at(self.request)
        if self.is_known and gap > self._timing.gap:
            self.steady_from = now + self._timing.hold_off
        self.is_known = True
        self.request = max(self.request, request)

    def lost(self) -> None:
        """Record that it cannot be reached."""
        self.is_known, self.request = True, 0

    @property
    def requested_at(self) -> float:
        """When the last request that it answered was made."""
        return self._requests.requested_at(self.request)

    def is_heard(self, now: float) -> bool:
        """Return whether it answers, as far as is known."""
        return not self.is_known or self.requested_at > now - self._silent_after

    def has_answered_since(self, since: float) -> bool:
        """Return whether it has answered a request from after `since`; True if it never answered any."""
        return not self.is_known or self.requested_at > since
