"""Keeps the network as it was set up: announces the addresses, and repairs what was taken away."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.service.tasks import in_daemon_thread
from egress_router.setup import announcements, network

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from egress_router.grammar.redirect import Redirects
    from egress_router.redirect.intervals import Intervals
    from egress_router.settings.setup import SetupSettings
    from egress_router.setup.nat_rules import Established

_log = log.get("redirect")


class Upkeep:
    """Keeps interface, addresses and routes as they were set up; `problem` says what is wrong with them.

    `established` is what is set up now. If the router holds other addresses than before, `put_in_force`
    adapts the rules.
    """

    def __init__(
        self,
        settings: SetupSettings,
        established: Established,
        redirects: Callable[[], Redirects],
        put_in_force: Callable[[], Awaitable[None]],
        intervals: Intervals,
    ) -> None:
        self._settings = settings
        self._redirects = redirects
        self._put_in_force = put_in_force
        self._intervals = intervals
        self.established = established
        self.problem: str | None = None

    async def run(self) -> None:
        """Announce a second time what was claimed; then, each minute, announce and repair what is missing."""
        await asyncio.sleep(self._intervals.second_announcement)
        holdings = self.established.holdings
        if holdings is not None and holdings.new:
            await self._keep(lambda: announcements.announce_again(holdings))
        keep = functools.partial(self._keep_network, asyncio.get_running_loop())
        while True:
            await asyncio.sleep(self._intervals.keep_network)
            await self._keep(keep)

    async def _keep(self, work: Callable[[], None]) -> None:
        try:
            await in_daemon_thread(work)
        except RefusedError as error:
            self.problem = str(error)
            _log.error("the network is not as it should be", error=str(error))
        except OSError as error:  # a shortage of descriptors or memory; `problem` is what it was
            _log.warning("the network cannot be looked at", error=error.strerror)
        else:
            self.problem = None

    def _keep_network(self, loop: asyncio.AbstractEventLoop) -> None:
        self.established = network.keep_network(
            self._settings, self._redirects(), self.established, functools.partial(self._hold, loop)
        )

    def _hold(self, loop: asyncio.AbstractEventLoop, established: Established) -> None:
        """Put the rules in force for other source addresses; called in a thread, executed by the loop."""

        async def put_in_force() -> None:
            before, self.established = self.established, established
            try:
                await self._put_in_force()
            except BaseException:
                self.established = before  # so that the next round tries again
                raise

        asyncio.run_coroutine_threadsafe(put_in_force(), loop).result()
