"""Follows EGRESS_ADMIN_RULES_FILE, and reports what the administrator's rules have counted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import ConfigError, RefusedError
from egress_router.files import signature
from egress_router.kernel.nat import admin_rules
from egress_router.service.file_watch import changes
from egress_router.service.rule_follower import RETRY_SECONDS
from egress_router.service.tasks import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from egress_router.files import Signature
    from egress_router.kernel.nat.admin_rules import FileRules
    from egress_router.service.file_watch import Signatures
    from egress_router.service.mode import Json

_log = log.get("redirect")


class AdminRules:
    """The rules of the file: replaced when it changes; if the new ones are wrong, the old ones stay.

    `setup` has put them in force once. `read` returns the rules of the file as it is now; `put` puts them in
    force and returns whether that changed anything. Rules that the kernel refused are tried again. `error`
    says why the current rules of the file are not in force.
    """

    def __init__(
        self,
        path: Path | None,
        read: Callable[[], FileRules | None],
        put: Callable[[FileRules], bool] = admin_rules.put_in_force,
        retry_seconds: float = RETRY_SECONDS,
        look: Callable[[Path], Signature | None] = signature,
    ) -> None:
        self._path = path
        self._read = read
        self._put = put
        self._retry_seconds = retry_seconds
        self._look = look
        self._quiet: Signatures | None = None
        self._was_refused = False
        self._one_at_a_time = asyncio.Lock()
        self.error: str | None = None

    def tasks(self) -> list[Coroutine[None, None, None]]:
        """Return the coroutines that must run beside the service."""
        return [] if self._path is None else [self._follow(self._path), self._retry(self._path)]

    async def _follow(self, path: Path) -> None:
        async for quiet in changes([path], look=self._look):
            self._quiet = quiet
            await self._refill()

    async def _retry(self, path: Path) -> None:
        while True:
            await asyncio.sleep(self._retry_seconds)
            # A file that is being written is read when it is quiet.
            if self._was_refused and (self._look(path),) == self._quiet:
                await self._refill()

    async def _refill(self) -> None:
        """Put the rules of the file in force."""
        async with self._one_at_a_time:
            try:
                await in_daemon_thread(self._put_in_force)
            except (ConfigError, RefusedError) as error:
                if str(error) != self.error:
                    _log.error("the administrator's rules stay as they were", error=str(error))
                self.error = str(error)
                self._was_refused = isinstance(error, RefusedError)
            else:
                self.error, self._was_refused = None, False

    def _put_in_force(self) -> None:
        rules = self._read()
        if rules is not None and self._put(rules):
            _log.info("the administrator's rules are in force")

    async def shown(self) -> dict[str, Json]:
        """Return the rules of the chain and the file for `/status`."""
        try:
            rules = await in_daemon_thread(admin_rules.read)
        except RefusedError as error:
            return {"rules": [], "error": str(error)}
        return {
            "rules": [
                {
                    "text": rule.text,
                    "packets": rule.packets,
                    "bytes": rule.size,
                    "from": rule.origin.value,
                }
                for rule in rules
            ],
            "error": self.error,
        }
