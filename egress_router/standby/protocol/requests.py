"""The numbered requests of a router: when the kernel's timer of each was started. Pure."""

from __future__ import annotations

import math

_KEPT = 256  # requests whose time is remembered: more than are made during a lease


class Requests:
    """What this router requested; `void` is the last request whose answers give no lease any more."""

    __slots__ = ("_lease", "_made", "last", "void")

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._made: dict[int, float] = {}
        self.last = 0
        self.void = 0

    def add(self, now: float) -> int:
        """Number a new request."""
        self.last += 1
        self._made[self.last] = now
        if len(self._made) > _KEPT:
            del self._made[next(iter(self._made))]
        return self.last

    def requested_at(self, request: int, otherwise: float = -math.inf) -> float:
        """Return when a request was made, just before its timer was started."""
        return self._made.get(request, otherwise)

    def until(self, request: int) -> tuple[int, float]:
        """Return a request, and until when an answer to it gives a lease."""
        return request, self._made.get(request, -math.inf) + self._lease

    def revoke(self) -> None:
        """From now on, let no answer to what was asked so far give a lease."""
        self.void = self.last

    def clear(self) -> None:
        """Revoke them, and forget when they were made."""
        self._made.clear()
        self.revoke()
