"""A name that lines name: followed for as long as one of them does."""

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

# Seconds. A name that does not resolve is asked for again after so long, or when somebody wants it.
_RETRY: Final = 1.0
# How long it is believed that a name does not exist or has no address: somebody may wait for it to appear.
DENIAL_SECONDS: Final = 5.0
# Answers that are valid for longer are still looked at again: a route may have come or gone.
_LOOK_AGAIN: Final = 10.0
_LEAST_WAIT: Final = 0.05
# How long the last addresses outlive a name that is said not to exist: a zone that is being reloaded, or
# was published with a mistake, comes back within moments. The resolver bounds what failing servers may do.
HOLD_SECONDS: Final = 30.0


class Names(Protocol):
    """What this package needs of a resolver."""

    async def resolve(self, name: str, *, denial_seconds: float | None = None) -> Answer:
        """Return the addresses of a name, or raise ResolveError."""

    def close(self) -> None:
        """Give up what is being looked up."""


class FollowedName:
    """The addresses of one name, now.

    `on_answer` is called after each time that the name was asked for, whatever the result, and told whether
    it began to fail, or to work again. `failure` says why the last time brought no addresses. `known` are
    addresses that it had a moment ago.
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
        """Have the name asked for now, if it waits for its next time."""
        self._wanted.set()

    async def _follow(self) -> None:
        while True:
            wait = await self.ask()
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wanted.wait()

    async def ask(self) -> float:
        """Ask for the addresses once; return after how many seconds to ask again."""
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
    """Hand a fault of ours to the loop's exception handler now, not when the task is collected."""
    if not task.cancelled():
        task.result()
