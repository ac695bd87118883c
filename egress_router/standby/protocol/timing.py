"""The times of the pair protocol, and how they depend on each other. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Timing:
    """All in seconds. docs/decisions/standby.md gives the reasons."""

    heartbeat: float = 0.05  # between two messages of the active router
    lease: float = 0.5  # how long one answered request keeps the gate open, from before its sending
    silent: float = 0.2  # without a message for so long, a peer counts as silent
    listen: float = 1.0  # at the start, before anything is claimed
    gap: float = 0.45  # after a gateway was silent for so long, its answers prove nothing for a hold-off
    attempt: float = 1.5  # after a claim without success for so long, others may try
    drift: float = 0.01  # the rates of two clocks differ by no more than this share
    guard: float = 0.06  # granularity of kernel timers, and frames that wait in a queue behind the gate
    successor_wait: float = 0.25  # how long a router that leaves waits for its successor to be ready
    ready: float = 0.3  # how long a successor stays ready after it was asked to
    forget: float = 600.0  # a peer that is silent for so long without having ended is taken for dead
    # With an arbiter only:
    alone: float = 15.0  # how long one write to the arbiter keeps the gate open, from before its sending
    renew: float = 3.0  # between two such writes
    refresh: float = 10.0  # between two writes that only show others that a pair lives
    stale_pair: float = 30.0  # a pair that is not heard, and did not refresh for so long, is dead
    ask: float = 1.0  # an answer of the arbiter that comes later is ignored
    retry: float = 0.2  # after an answer that could not be used
    poll: float = 2.0  # how often a router that the arbiter does not name looks again
    lead: float = 0.25  # a claiming router asks the arbiter so long before it may open its gate

    @property
    def hold_off(self) -> float:
        """How long a router that acknowledged does not open: longer than the other gate can be open."""
        return self.lease * (1 + self.drift) + self.guard

    @property
    def stale_alone(self) -> float:
        """How long an only member must not have renewed before another router may take its place."""
        return self.alone * (1 + self.drift) + self.guard


DEFAULT: Final = Timing()
