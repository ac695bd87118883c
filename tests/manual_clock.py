"""A clock that a test sets."""

from __future__ import annotations


class ManualClock:
    """See `egress_router.clock.Clock`; stands still until `advance`."""

    def __init__(self, monotonic: float = 1000.0, time: float = 1_800_000_000.0) -> None:
        self._monotonic = monotonic
        self._time = time

    def monotonic(self) -> float:
        return self._monotonic

    def time(self) -> float:
        return self._time

    def advance(self, seconds: float) -> None:
        """Let time pass; it never goes back."""
        assert seconds >= 0
        self._monotonic += seconds
        self._time += seconds

    def set_time(self, time: float) -> None:
        """Set the time of day, as an administrator or NTP does; durations do not change."""
        self._time = time
