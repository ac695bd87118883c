"""Active checks: a connection to every address in use, every two seconds."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import struct
from typing import TYPE_CHECKING, Final

from egress_router.clock import SYSTEM
from egress_router.upstreams.pool import Health

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from egress_router.clock import Clock
    from egress_router.grammar.address import Target

INTERVAL: Final = 2.0  # seconds; a check that takes this long fails, too
# A check costs about 0.2 ms of CPU time. With more than 1,000 targets, all are checked less often.
MAX_CHECKS_A_SECOND: Final = 500
# With this, checks of many targets spread out and do not come in bursts.
_JITTER = 0.1
_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
# These say nothing about the target, only that this process could not get a socket.
_CANNOT_ASK = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
_RESET = struct.pack("ii", 1, 0)  # struct linger: on, for no time


class Checks:
    """The health of every target in use, however many lines use it.

    Results of real connections count like checks. `on_change` is called with a target whose health changed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_change: Callable[[Target], None],
        *,
        clock: Clock = SYSTEM,
        interval: float = INTERVAL,
    ) -> None:
        self._loop = loop
        self._on_change = on_change
        self._clock = clock
        self._interval = interval
        self._health: dict[Target, Health] = {}
        self._tasks: dict[Target, asyncio.Task[None]] = {}

    def watch(self, targets: Iterable[Target]) -> None:
        """Check exactly these targets; the health of those that were checked before is kept."""
        wanted = set(targets)
        for target in self._health.keys() - wanted:
            del self._health[target]
            self._tasks.pop(target).cancel()
        for target in wanted - self._health.keys():
            self._health[target] = Health()
            self._tasks[target] = self._loop.create_task(self._check(target))

    def __len__(self) -> int:
        return len(self._health)

    def is_up(self, target: Target) -> bool:
        """Return whether a target answers; true as long as nothing is known."""
        health = self._health.get(target)
        return health is None or health.up

    def observe(self, target: Target, *, answered: bool) -> None:
        """Count the result of a check or of a client's connection."""
        health = self._health.get(target)
        if health is not None and health.observe(answered=answered):
            self._on_change(target)

    def stop(self) -> None:
        """Stop checking."""
        self.watch(())

    async def _check(self, target: Target) -> None:
        """Check one target for ever; the first time after a random part of the interval."""
        await asyncio.sleep(self.interval * random.uniform(0, 1 + _JITTER))  # noqa: S311 - no secret
        while True:
            began = self._clock.monotonic()
            answered = await answers(target, self._interval)
            if answered is not None:
                self.observe(target, answered=answered)
            await asyncio.sleep(self.pause(self._clock.monotonic() - began))

    @property
    def interval(self) -> float:
        """Seconds from the start of one check of a target to the start of the next."""
        return max(self._interval, len(self._health) / MAX_CHECKS_A_SECOND)

    def pause(self, spent: float) -> float:
        """Return how long to wait after a check that took `spent` seconds.

        The interval is from start to start, so that a silent target is down after three of them.
        """
        seconds = self.interval * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret
        return max(seconds - spent, 0.0)


async def answers(target: Target, seconds: float) -> bool | None:
    """Say whether a target accepts a connection within `seconds`; None: this process could not ask."""
    address, port = target
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        sock = socket.socket(family, _STREAM)
    except OSError:
        return None
    with sock:
        try:
            async with asyncio.timeout(seconds):
                await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
        except TimeoutError:
            return False
        except OSError as error:
            return None if error.errno in _CANNOT_ASK else False
        # Closing with FIN would leave an open connection at the server, and a port in TIME_WAIT here.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    return True
