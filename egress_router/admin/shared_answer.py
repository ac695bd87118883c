"""An answer that is expensive to make: it is made once a second at most, however many ask."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from egress_router.clock import Clock

SECONDS: Final = 1.0  # an answer is used for this long; workers report as often

T = TypeVar("T")


class SharedAnswer(Generic[T]):
    """Returns what `make` made, at most a second old; all who ask in the meantime wait for the same one."""

    def __init__(self, make: Callable[[], Awaitable[T]], clock: Clock) -> None:
        self._make = make
        self._clock = clock
        self._made: asyncio.Task[T] | None = None
        self._until = 0.0  # monotonic

    async def get(self) -> T:
        """Return the answer; after an error of `make` the next call makes a new one."""
        made, now = self._made, self._clock.monotonic()
        if made is None or (made.done() and (now >= self._until or made.exception() is not None)):
            made = self._made = asyncio.create_task(self._make_answer())
        return await asyncio.shield(made)  # it goes on for the others when one is cancelled

    async def _make_answer(self) -> T:
        answer = await self._make()
        self._until = self._clock.monotonic() + SECONDS
        return answer
