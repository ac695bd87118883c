"""What a router knows of its gateway, by the questions that it answered. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egress_router.standby.protocol.requests import Questions
    from egress_router.standby.protocol.timing import Timing


class Gateway:
    """Whether the gateway answers, and what its answers prove.

    `is_known` says whether it ever answered one; of one that never did, nothing can be concluded.
    """

    __slots__ = ("_questions", "_silent_after", "_timing", "is_known", "slot", "steady_from")

    def __init__(self, questions: Questions, timing: Timing) -> None:
        self._questions = questions
        self._timing = timing
        self._silent_after = 16 * timing.beat
        self.slot = 0  # the last question that it answered
        self.is_known = False
        self.steady_from = -math.inf  # a cable that was just plugged in again proves no silence

    def answered(self, slot: int, now: float) -> None:
        """Take in that it answered what was asked with question `slot`."""
        gap = self._questions.asked(slot, now) - self._questions.asked(self.slot)
        if self.is_known and gap > self._timing.gap:
            self.steady_from = now + self._timing.promise
        self.is_known = True
        self.slot = max(self.slot, slot)

    def lost(self) -> None:
        """Take in that it cannot be reached."""
        self.is_known, self.slot = True, 0

    @property
    def asked(self) -> float:
        """When the last question that it answered was asked."""
        return self._questions.asked(self.slot)

    def is_heard(self, now: float) -> bool:
        """Say whether it answers, as far as can be said."""
        return not self.is_known or self.asked > now - self._silent_after

    def has_answered_since(self, since: float) -> bool:
        """Say whether it has answered a question from after `since`, if it ever answers any."""
        return not self.is_known or self.asked > since
