"""Puts a changed rules file in force, and retries refused rules that may be accepted later."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from egress_router.service.file_watch import changes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from pathlib import Path

    from egress_router.service.rule_store import RuleStore

Rules = TypeVar("Rules")
RETRY_SECONDS = 3.0


class RuleFollower(Generic[Rules]):
    """Follows the source of a store's rules, one change at a time; inline rules never change.

    `put_in_force` gets the rules and their ports, and raises RefusedError if something is not available.
    """

    def __init__(
        self,
        store: RuleStore[Rules],
        paths: Sequence[Path],
        put_in_force: Callable[[Rules, frozenset[int]], Awaitable[None]],
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._store = store
        self._paths = paths
        self._put_in_force = put_in_force
        self._retry_seconds = retry_seconds
        self._asked = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._stopped = False

    def tasks(self) -> list[Coroutine[None, None, None]]:
        """Return the coroutines that must run beside the service."""
        tasks = [self._reload_when_asked()]
        watches = [self._watch(each) for each in self._paths]
        return [*tasks, *watches, self._retry()] if watches else tasks

    def reload(self) -> None:
        """Read the source again soon."""
        self._asked.set()

    def stop(self) -> None:
        """Start no further change."""
        self._stopped = True

    async def _reload_when_asked(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self._reload()

    async def _watch(self, path: Path) -> None:
        async for _ in changes(path):
            await self._reload()

    async def _retry(self) -> None:
        while True:
            await asyncio.sleep(self._retry_seconds)
            async with self._one_at_a_time:
                if not self._stopped:
                    await self._store.retry(self._put_in_force)

    async def _reload(self) -> None:
        async with self._one_at_a_time:
            if not self._stopped:
                await self._store.reload(self._put_in_force)
