"""Mode `legacy`: redirect mode that stays, follows its rules file and keeps the address announced."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

from egress_router import log, setup
from egress_router.errors import ConfigError, RefusedError
from egress_router.kernel import claim
from egress_router.service.reload import changes

if TYPE_CHECKING:
    from egress_router.settings.setup import SetupSettings

ANNOUNCE_INTERVAL = 60.0  # seconds
_log = log.get("legacy")


def stay(settings: SetupSettings, established: setup.Established) -> None:
    """Watch the rules file and announce the address, until SIGTERM or SIGINT."""
    asyncio.run(_stay(settings, established))
    _log.info("ended; rules and address stay until the pod goes")


async def _stay(settings: SetupSettings, established: setup.Established) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    tasks = [
        asyncio.create_task(_watch(settings, established)),
        asyncio.create_task(_keep(settings)),
    ]
    try:
        await ended.wait()
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _watch(settings: SetupSettings, established: setup.Established) -> None:
    if settings.destinations is None or settings.destinations.path is None:
        return
    path = settings.destinations.path
    async for _ in changes(path, established.rules_seen):
        try:
            redirects = setup.read_redirects(settings)
            setup.put_in_force(settings, redirects, established.apply)
        except (ConfigError, RefusedError) as error:
            _log.error("new rules are refused; the old ones stay in force", errors=str(error))
            continue
        _log.info("new rules are in force", lines=0 if redirects is None else len(redirects.rules))


async def _keep(settings: SetupSettings) -> None:
    """Once a minute announce the address, and repair routes and addresses that somebody took away."""
    while True:
        await asyncio.sleep(ANNOUNCE_INTERVAL)
        try:
            await asyncio.to_thread(_announce, settings)
        except RefusedError as error:
            _log.error("the network is not as it should be", error=str(error))


def _announce(settings: SetupSettings) -> None:
    link, _ = setup.ensure_network(settings)
    claim.announce(link, [source.address for source in settings.sources])
