"""When the event loop reads what the data plane tells; here a stand-in says what there is."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING

import pytest

from egress_router.relay import dataplane
from egress_router.relay.dataplane import DataPlane

if TYPE_CHECKING:
    from collections.abc import Iterator


class StandIn:
    """Rings, and has a pause begin while its news are read; `left` is how often more can be read."""

    def __init__(self) -> None:
        self._rings, self.bell = socket.socketpair()
        self.bell.setblocking(False)
        self._pauses = 0
        self.reads = self.left = 0
        self._rings.send(b"x")

    def fileno(self) -> int:
        return self.bell.fileno()

    def counts(self) -> tuple[int, ...]:
        return 0, 0, 0, self._pauses, self._pauses, errno.EMFILE, 0, 0, 0

    def collect(self, _: int) -> list[object]:
        self.reads += 1
        if self.left:  # as `plane_collect`: the bell is answered once all that was taken is read
            self.left -= 1
            return []
        with contextlib.suppress(BlockingIOError):
            self.bell.recv(1)
        self._pauses = 1
        return []

    def waiting(self) -> bool:
        return self.left > 0

    def close(self) -> None:
        self._rings.close()
        self.bell.close()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with contextlib.closing(StandIn()) as made:
        monkeypatch.setattr(dataplane, "_started", lambda *_: made)
        yield made


def test_a_pause_that_begins_while_news_are_read_is_told(stand_in: StandIn) -> None:
    """It does not ring: the bell that is being answered stands for it."""
    told: list[int] = []

    async def body() -> None:
        loop = asyncio.get_running_loop()
        DataPlane(loop).tell_pauses(told.append)
        for _ in range(5):
            await asyncio.sleep(0)
        loop.remove_reader(stand_in.bell)

    asyncio.run(body())
    assert told == [errno.EMFILE]


def test_news_are_read_once_in_a_turn_of_the_loop(stand_in: StandIn) -> None:
    """However often it rings while some of them are left."""
    stand_in.left = 10

    async def body() -> None:
        loop = asyncio.get_running_loop()
        DataPlane(loop)
        while stand_in.left:
            before = stand_in.reads
            await asyncio.sleep(0)
            assert stand_in.reads - before <= 1
        loop.remove_reader(stand_in.bell)

    asyncio.run(body())
