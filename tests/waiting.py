"""Waiting for what happens elsewhere: a condition is awaited, never a duration."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

WAIT_SECONDS = 60.0  # what takes longer has failed, also on a machine that is busy
_POLL, _LONGEST_POLL = 0.005, 0.05


def eventually(check: Callable[[], object], seconds: float = WAIT_SECONDS) -> bool:
    """Return whether `check` comes true in time; the last look is made after it."""
    begun = time.monotonic()
    while (waited := time.monotonic() - begun) < seconds:
        if check():
            return True
        time.sleep(_pause(waited))
    return bool(check())


def until(check: Callable[[], object], what: str = "what is waited for") -> None:
    """Wait until `check` comes true; the test fails if it does not."""
    assert eventually(check), f"waited in vain for: {what}"


async def until_async(check: Callable[[], object]) -> None:
    """Wait until `check` comes true while the loop goes on; TimeoutError if it does not."""

    async def checked() -> object:
        return check()

    await until_awaited(checked)


async def until_awaited(check: Callable[[], Awaitable[object]]) -> None:
    """Wait until what `check` awaits is true; TimeoutError if it does not become so."""
    begun = time.monotonic()
    async with asyncio.timeout(WAIT_SECONDS):
        while not await check():  # noqa: ASYNC110 (what it waits for is in another thread or behind a timer)
            await asyncio.sleep(_pause(time.monotonic() - begun))


def _pause(waited: float) -> float:
    """Return how long not to look: a tenth of what was waited. A look may be a request to a process that starts."""
    return min(max(_POLL, waited / 10), _LONGEST_POLL)
