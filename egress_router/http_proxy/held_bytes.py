"""Limits the bytes of incomplete heads and bodies that all connections of a worker buffer together.

Each connection has limits of its own, but ten thousand at their limits would need more memory than the
container has. Pure: connections are ended in a later turn of the loop, asked for with `soon`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

# Connections are ended until only this part of the limit is used, since finding the biggest looks at all.
_LEFT = 7 / 8


class Holder(Protocol):
    """A connection that buffers bytes."""

    def give_way(self) -> None:
        """End the request that the bytes belong to, and drop them."""


class HeldBytes:
    """Adds up what connections buffer; beyond `limit` the biggest ones are ended, the biggest first."""

    def __init__(self, limit: int, soon: Callable[[Callable[[], None]], None]) -> None:
        self._limit = limit
        self._soon = soon
        self._sizes: dict[Holder, int] = {}
        self._coming = False
        self.total = 0

    def hold(self, holder: Holder, size: int) -> None:
        """Note how many bytes a connection buffers now."""
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
