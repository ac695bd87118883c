"""How often the router that stays looks after things; tests of real packets are less patient."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds: until the second announcement (RFC 5227 1.1), between looks at network and counters."""

    second_announcement: float = 2.0
    keep_network: float = 60.0
    count: float = 5.0


INTERVALS = Intervals()
