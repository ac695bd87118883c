"""Puts a changed rules file in force, and retries refused rules that may be accepted later."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from egress_router.files import signature
from egress_router.service.file_watch import changes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from pathlib import Path

    from egress_router.files import Signature
    from egress_router.service.file_watch import Signatures
    from egress_router.service.rule_store import PutInForce, RuleStore

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
        look: Callable[[Path], Signature | None] = signature,
    ) -> None:
        self._store = store
        self._paths = paths
        self._put_in_force = put_in_force
        self._retry_seconds = retry_seconds
        self._look = look
        self._quiet: Signatures | None = None
        self._asked = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._stopped = False

    def tasks(self) -> list[Coroutine[None, None, None]]:
        """Return the coroutines that must run beside the service."""
        tasks = [self._reload_when_asked()]
        return [*tasks, self._watch(), self._retry()] if self._paths else tasks

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
            async with self._one_at_a_time:
                if not self._stopped:
                    await self._store.reload(self._put_in_force)

    async def _watch(self) -> None:
        async for quiet in changes(self._paths, look=self._look):
            self._quiet = quiet
            await self._while_quiet(self._store.reload)

    async def _retry(self) -> None:
        while True:
            await asyncio.sleep(self._retry_seconds)
            await self._while_quiet(self._store.retry)

    async def _while_quiet(self, read: Callable[[PutInForce[Rules]], Awaitable[None]]) -> None:
        """Have the source read, unless a file is being written: then `_watch` has it read afterwards."""
        async with self._one_at_a_time:
            if not self._stopped and tuple(map(self._look, self._paths)) == self._quiet:
                await read(self._put_in_force)
