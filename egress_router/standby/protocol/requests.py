"""The numbered requests of a router: when the kernel's timer of each was started. Pure."""

from __future__ import annotations

import math

_KEPT = 256  # requests whose time is remembered: more than are asked during a lease


class Requests:
    """What this router asked; `void` is the last request whose answers give no lease any more."""

    __slots__ = ("_asked", "_lease", "last", "void")

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._asked: dict[int, float] = {}
        self.last = 0
        self.void = 0

    def add(self, now: float) -> int:
        """Number a new request."""
        self.last += 1
        self._asked[self.last] = now
        if len(self._asked) > _KEPT:
            del self._asked[next(iter(self._asked))]
        return self.last

    def requested_at(self, request: int, otherwise: float = -math.inf) -> float:
        """Return when a request was asked."""
        return self._asked.get(request, otherwise)

    def until(self, request: int) -> tuple[int, float]:
        """Return a request, and until when an answer to it gives a lease."""
        return request, self._asked.get(request, -math.inf) + self._lease

    def revoke(self) -> None:
        """Have no answer to what was asked so far give a lease."""
        self.void = self.last

    def clear(self) -> None:
        """Revoke them, and forget when they were asked."""
        self._asked.clear()
        self.revoke()
