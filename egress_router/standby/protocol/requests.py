"""The numbered requests of a router, and when the kernel's timer of each was started. Pure."""

from __future__ import annotations

import math

_REMEMBERED = 256  # requests: more than are made during a lease


class Requests:
    """The requests of this router; answers to those up to `void` give no lease any more."""

    __slots__ = ("_lease", "_made", "last", "void")

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._made: dict[int, float] = {}
        self.last = 0
        self.void = 0

    def add(self, now: float) -> int:
        """Record a new request; return its number."""
        self.last += 1
        self._made[self.last] = now
        if len(self._made) > _REMEMBERED:
            del self._made[next(iter(self._made))]
        return self.last

    def requested_at(self, request: int, otherwise: float = -math.inf) -> float:
        """Return when a request was made, just before its timer was started."""
        return self._made.get(request, otherwise)

    def until(self, request: int) -> tuple[int, float]:
        """Return a request, and the end of the lease that an answer to it gives."""
        return request, self._made.get(request, -math.inf) + self._lease

    def revoke(self) -> None:
        """Let no answer to a request so far give a lease any more."""
        self.void = self.last

    def clear(self) -> None:
        """Revoke all requests, and forget when they were made."""
        self._made.clear()
        self.revoke()
