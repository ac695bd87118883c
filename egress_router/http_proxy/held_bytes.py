"""What all connections of a worker hold of unfinished heads and bodies, and who gives way beyond a limit.

Each connection has bounds of its own, but ten thousand of them at their bounds would be more memory than the
container has. Pure: connections give way in a later turn of the loop, asked for with `soon`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

# Beyond the limit, connections end until this part of it is used: to find the biggest, all are looked at.
_LEFT = 7 / 8


class Holder(Protocol):
    """A connection that holds bytes."""

    def give_way(self) -> None:
        """End what the bytes belong to, and hold none of them any more."""


class HeldBytes:
    """Adds up what connections hold; beyond `limit` the biggest of them give way, the biggest first."""

    def __init__(self, limit: int, soon: Callable[[Callable[[], None]], None]) -> None:
        self._limit = limit
        self._soon = soon
        self._sizes: dict[Holder, int] = {}
        self._coming = False
        self.total = 0

    def hold(self, holder: Holder, size: int) -> None:
        """Note what a connection holds now, instead of what it held before."""
        self.total += size - self._sizes.pop(holder, 0)
        if size:
            self._sizes[holder] = size
        if self.total > self._limit and not self._coming:
            self._coming = True
            self._soon(self._end_the_biggest)

    def _end_the_biggest(self) -> None:
        self._coming = False
        if self.total <= self._limit:
            return
        for holder in sorted(self._sizes, key=self._sizes.__getitem__, reverse=True):
            if self.total <= self._limit * _LEFT:
                break
            if holder in self._sizes:
                holder.give_way()
                self.hold(holder, 0)
