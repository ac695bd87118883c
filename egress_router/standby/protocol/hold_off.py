"""The hold-off after an acknowledgement: while it lasts, only a hand-over opens the gate. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egress_router.standby.protocol.commands import Message


class HoldOff:
    """Which router was acknowledged last, for which request, and until when; one router at a time."""

    __slots__ = ("_seconds", "seq", "to", "until")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.to = 0
        self.seq = 0
        self.until = -math.inf

    def start(self, message: Message, now: float) -> None:
        """Start the hold-off for the sender of a message, which is acknowledged."""
        self.to, self.seq = message.sender, message.seq
        self.until = now + self._seconds

    def follow(self, message: Message, me: int) -> None:
        """Process that the other router has given up: its gate is closed, and its older requests are void.

        So the hold-off for it ends. But if it acknowledges another router, that one may get the lease by its
        hand-over: then the hold-off is for that one.
        """
        if message.ack_to in {0, me}:
            self.until = -math.inf
        else:
            self.to, self.seq = message.ack_to, 0  # it has requested nothing yet

    def is_running(self, now: float) -> bool:
        """Return whether the hold-off still lasts."""
        return now < self.until

    def allows(self, number: int, now: float) -> bool:
        """Return whether this router may acknowledge, or take over from, router `number`."""
        return now >= self.until or self.to == number
