"""A name that lines name: it is looked up again and again while one of them names it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, Protocol

from egress_router.clock import SYSTEM
from egress_router.names.answer import ResolveError

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.clock import Clock
    from egress_router.grammar.address import IPAddress
    from egress_router.names.answer import Answer

# Seconds. A name that does not resolve is looked up again after this time, or when it is needed.
_RETRY: Final = 1.0
# How long a cached denial (no such name, no address) is trusted: somebody may wait for the name to appear.
DENIAL_SECONDS: Final = 5.0
# Answers that are valid for longer are still asked for again: a route may have come or gone.
_LOOK_AGAIN: Final = 10.0
_LEAST_WAIT: Final = 0.05
# How long the last addresses are kept after the name is reported not to exist: a zone that is being reloaded
# or was published with a mistake is soon back. The resolver limits how long they are kept if servers fail.
HOLD_SECONDS: Final = 30.0


class Names(Protocol):
    """What this package needs from a resolver."""

    async def resolve(self, name: str, *, denial_seconds: float | None = None) -> Answer:
        """Return the addresses of a name, or raise ResolveError."""

    def close(self) -> None:
        """End all look-ups."""


class FollowedName:
    """The current addresses of one name.

    `on_answer` is called after each look-up, whatever the result; its argument is true if look-ups began to
    fail, or to work again. `failure` says why the last look-up gave no addresses. `known` are addresses that
    the name had a moment ago.
    """

    def __init__(
        self,
        name: str,
        names: Names,
        on_answer: Callable[[bool], None],
        clock: Clock = SYSTEM,
        known: tuple[IPAddress, ...] = (),
    ) -> None:
        self.name = name
        self.addresses = known
        self.failure: ResolveError | None = None
        self._names = names
        self._on_answer = on_answer
        self._clock = clock
        self._good_until = clock.monotonic() + HOLD_SECONDS if known else 0.0
        self._wanted = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to follow the name."""
        self._following = loop.create_task(self._follow(), name=f"follow {self.name}")
        self._following.add_done_callback(_surface)

    def stop(self) -> None:
        """Stop following the name, and forget its addresses."""
        if self._following is not None:
            self._following.cancel()
        self.addresses = ()

    def want(self) -> None:
        """Look the name up now, without waiting for the next time."""
        self._wanted.set()

    async def _follow(self) -> None:
        while True:
            wait = await self.ask()
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wanted.wait()

    async def ask(self) -> float:
        """Look the addresses up once; return after how many seconds to do it again."""
        try:
            answer = await self._names.resolve(self.name, denial_seconds=DENIAL_SECONDS)
        except ResolveError as error:
            news = self._fail(error)
            wait = _RETRY
        else:
            now = self._clock.monotonic()
            self._good_until = now + HOLD_SECONDS
            news, self.failure = self.failure is not None, None
            self.addresses = answer.addresses
            wait = min(max(answer.expires - now, _LEAST_WAIT), _LOOK_AGAIN)
        self._on_answer(news)
        return wait

    def _fail(self, error: ResolveError) -> bool:
        news = self.failure is None or self.failure.failure is not error.failure
        self.failure = error
        if self.addresses and self._clock.monotonic() >= self._good_until:
            self.addresses = ()
            news = True
        return news


def _surface(task: asyncio.Task[None]) -> None:
    """Raise a bug of ours in the loop's exception handler now, not when the task is garbage-collected."""
    if not task.cancelled():
        task.result()
