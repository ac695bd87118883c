"""Follows EGRESS_ADMIN_RULES_FILE, and tells what the administrator's rules have counted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import ConfigError, RefusedError
from egress_router.kernel.nat import admin_rules, nftables
from egress_router.service.file_watch import changes
from egress_router.setup.nat_rules import read_admin_rules

if TYPE_CHECKING:
    from egress_router.service.mode import Json
    from egress_router.settings.setup import SetupSettings
    from egress_router.setup.nat_rules import Established

_log = log.get("redirect")


class AdminRules:
    """The administrator's chain: refilled when the file changes; a wrong one leaves the chain as it is.

    `setup` has filled it once. `error` says why what the file says now is not in force.
    """

    def __init__(self, settings: SetupSettings, established: Established) -> None:
        self._settings = settings
        self._established = established
        self._in_force: str | None = None
        self.error: str | None = None

    async def follow(self) -> None:
        """Watch the file, where there is one."""
        path = self._settings.admin_rules
        if path is None:
            await asyncio.Event().wait()
            return
        self._in_force = await self._wanted()
        async for _ in changes(path):
            await self._refill()

    async def _wanted(self) -> str | None:
        try:
            return await asyncio.to_thread(lambda: read_admin_rules(self._settings, self._established.apply))
        except (ConfigError, RefusedError):
            return None

    async def _refill(self) -> None:
        """Fill the chain with what the file says."""

        def refill() -> str | None:
            text = read_admin_rules(self._settings, self._established.apply)
            # The same text would only set the counters back.
            if text is not None and text != self._in_force:
                nftables.execute(text)
                _log.info("the administrator's rules are in force")
            return text

        try:
            self._in_force = await asyncio.to_thread(refill)
        except (ConfigError, RefusedError) as error:
            if str(error) != self.error:
                _log.error("the administrator's rules stay as they were", error=str(error))
            self.error = str(error)
        else:
            self.error = None

    async def shown(self) -> dict[str, Json]:
        """Return the chain for `/status`."""
        try:
            rules = await asyncio.to_thread(admin_rules.read)
        except RefusedError as error:
            return {"rules": [], "error": str(error)}
        return {
            "rules": [{"text": rule.text, "packets": rule.packets, "bytes": rule.size} for rule in rules],
            "error": self.error,
        }
