"""How often a long-running router checks and announces; tests of real packets use shorter times."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds: until the second announcement (RFC 5227 1.1), between checks of network, and of counters."""

    second_announcement: float = 2.0
    keep_network: float = 60.0
    count: float = 5.0


INTERVALS = Intervals()
