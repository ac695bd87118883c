"""The hold-off after an acknowledgement: as long as it lasts only a hand-over opens the gate. Pure."""

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
        """Hold off from now on for the sender of a message, which is acknowledged."""
        self.to, self.seq = message.sender, message.seq
        self.until = now + self._seconds

    def follow(self, message: Message, me: int) -> None:
        """Take in that the other one has given up: its gate is closed, and what it asked before is void.

        So nobody holds off for it any more; but a router that it acknowledges may get the lease by its
        hand-over.
        """
        if message.ack_to in {0, me}:
            self.until = -math.inf
        else:
            self.to, self.seq = message.ack_to, 0  # it asked nothing yet

    def is_running(self, now: float) -> bool:
        """Say whether it is still to be kept."""
        return now < self.until

    def allows(self, number: int, now: float) -> bool:
        """Say whether this router may acknowledge, or take over from, router `number`."""
        return now >= self.until or self.to == number
