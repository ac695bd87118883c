"""The workers' statuses, merged into one; what dead workers had counted is kept."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from egress_router.service.control import StatusRequest
from egress_router.service.merge import PastWorkers, merged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from egress_router.clock import Clock
    from egress_router.service.control import Channel
    from egress_router.service.mode import Json

_ANSWER_SECONDS = 2.0
_REFRESH_SECONDS = 10.0  # the hits of this time may be lost with a worker


class WorkerStatuses:
    """The latest status of the worker in each slot."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._latest: dict[int, dict[str, Json]] = {}
        self._heard: dict[int, float] = {}  # monotonic
        self._past = PastWorkers()
        self._asked = 0
        self._answers: dict[int, asyncio.Queue[int]] = {}

    async def ask(self, channels: Mapping[int, Channel]) -> dict[str, Json]:
        """Ask the workers of these slots and return one status; of a late worker the last answer counts."""
        self._asked += 1
        number, missing = self._asked, set(channels)
        answers = self._answers[number] = asyncio.Queue()
        for channel in channels.values():
            channel.send(StatusRequest(number))
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                while missing:
                    missing.discard(await answers.get())
        except TimeoutError:
            pass
        finally:
            del self._answers[number]
        return merged(self._latest.values(), self._past)

    def refresh(self, slot: int, channel: Channel) -> None:
        """Ask a worker that has not answered for a while, so that little is lost when it dies."""
        if self._clock.monotonic() - self._heard.get(slot, 0.0) >= _REFRESH_SECONDS:
            channel.send(StatusRequest(0))

    def answered(self, slot: int, number: int, status: dict[str, Json]) -> None:
        """Take an answer."""
        self._latest[slot] = status
        self._heard[slot] = self._clock.monotonic()
        if number in self._answers:
            self._answers[number].put_nowait(slot)

    def died(self, slot: int) -> None:
        """Keep what still counts of a dead worker."""
        self._past.take(self._latest.pop(slot, {}))
        self._heard.pop(slot, None)
