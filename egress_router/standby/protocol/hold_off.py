"""The promise of a router: until its time is over it does not open its gate, except by a grant. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egress_router.standby.protocol.commands import Message


class Promise:
    """To whom this router promised last, in answer to which question, and until when; to one at a time."""

    __slots__ = ("_seconds", "seq", "to", "until")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.to = 0
        self.seq = 0
        self.until = -math.inf

    def bind(self, message: Message, now: float) -> None:
        """Promise to the sender of a message."""
        self.to, self.seq = message.sender, message.seq
        self.until = now + self._seconds

    def follow(self, message: Message, me: int) -> None:
        """Take in that the other one has given up: its gate is closed, and what it asked before is void.

        So nobody is bound to it any more; but whoever it promises to itself may have the right by its grant.
        """
        if message.promise_to in {0, me}:
            self.until = -math.inf
        else:
            self.to, self.seq = message.promise_to, 0  # it asked nothing yet

    def is_running(self, now: float) -> bool:
        """Say whether it is still to be kept."""
        return now < self.until

    def allows(self, number: int, now: float) -> bool:
        """Say whether this router may promise to, or take a grant from, router `number`."""
        return now >= self.until or self.to == number
