"""A name and port, or an address and port, that lines forward to: follows what the name resolves to."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING, Final, Protocol

from egress_router.grammar.address import printed
from egress_router.names.answer import ResolveError
from egress_router.upstreams.pool import Pool, Target
from egress_router.upstreams.route import has_route

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.grammar.address import Host, IPAddress
    from egress_router.names.answer import Answer

# Seconds. A name that does not resolve is asked for again after so long, or when a client wants it.
_RETRY: Final = 1.0
# Answers that live longer are looked at again all the same: a route may have come or gone.
_LOOK_AGAIN: Final = 10.0
_LEAST_WAIT: Final = 0.05
# How long the last addresses outlive a name that is said not to exist: a zone that is being reloaded, or
# was published with a mistake, comes back within moments. The resolver bounds what failing servers may do.
_HOLD: Final = 30.0


class Names(Protocol):
    """What this room needs of a resolver."""

    async def resolve(self, name: str) -> Answer:
        """Return the addresses of a name, or raise ResolveError."""

    def close(self) -> None:
        """Give up what is being looked up."""


class Destination:
    """The targets behind one host and port. `on_change` is called when they changed.

    `is_loop` says that an address was left out because this router itself listens there.
    """

    def __init__(
        self,
        host: Host,
        port: int,
        names: Names,
        is_up: Callable[[Target], bool],
        is_ours: Callable[[Target], bool],
        on_change: Callable[[Destination], None],
    ) -> None:
        self.host = host
        self.port = port
        self.text = printed(host, port)
        self.failure: ResolveError | None = None
        self._names = names
        self._is_up = is_up
        self._is_ours = is_ours
        self._on_change = on_change
        self._pool = Pool(random.randrange(1 << 16))  # noqa: S311 - only spreads
        self._addresses: tuple[IPAddress, ...] = ()
        self.is_loop = False
        self._good_until = 0.0
        self._waiting: set[Callable[[], None]] = set()
        self._wanted = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    @property
    def targets(self) -> tuple[Target, ...]:
        """Every target that serves, up or down."""
        return self._pool.targets

    def start(self) -> None:
        """Begin to follow the name; an address serves at once."""
        if isinstance(self.host, str):
            loop = asyncio.get_running_loop()
            self._following = loop.create_task(self._follow(self.host), name=f"follow {self.host}")
            self._following.add_done_callback(_surface)
        else:
            self._serve((self.host,), news=True)

    def stop(self) -> None:
        """Follow the name no more; those who wait for it are told that there is nothing."""
        if self._following is not None:
            self._following.cancel()
        self._addresses = ()
        self.arrange()
        self._release()

    def next(self) -> tuple[Target, ...]:
        """Return the targets in the order in which a new connection should try them; empty: none is known."""
        return self._pool.next()

    def wait(self, callback: Callable[[], None]) -> None:
        """Have a callback called when the name was asked for once more, whatever came of it."""
        self._waiting.add(callback)
        self._wanted.set()

    def leave(self, callback: Callable[[], None]) -> None:
        """Wait no more."""
        self._waiting.discard(callback)

    def arrange(self) -> None:
        """Sort the targets anew, because the health of one changed, or what is ours.

        What leads back to this router is left out: each connection would make the next one, without end.
        """
        targets = [(address, self.port) for address in self._addresses]
        others = [target for target in targets if not self._is_ours(target)]
        self.is_loop = len(others) < len(targets)
        self._pool.arrange(others, self._is_up, has_route)

    async def _follow(self, name: str) -> None:
        while True:
            wait = await self._resolve(name)
            self._release()
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wanted.wait()

    async def _resolve(self, name: str) -> float:
        """Ask for the addresses; return after how many seconds to ask again."""
        try:
            answer = await self._names.resolve(name)
        except ResolveError as error:
            self._fail(error)
            return _RETRY
        now = time.monotonic()
        self._good_until = now + _HOLD
        recovered, self.failure = self.failure is not None, None
        self._serve(answer.addresses, news=recovered)
        return min(max(answer.expires - now, _LEAST_WAIT), _LOOK_AGAIN)

    def _fail(self, error: ResolveError) -> None:
        news = self.failure is None or self.failure.failure is not error.failure
        self.failure = error
        if self._addresses and time.monotonic() >= self._good_until:
            self._addresses = ()
            self.arrange()
            news = True
        if news:
            self._on_change(self)

    def _serve(self, addresses: tuple[IPAddress, ...], *, news: bool) -> None:
        before = set(self._pool.targets)
        self._addresses = addresses
        self.arrange()
        # Name servers shuffle their answers; only another set of addresses is worth saying.
        if news or before != set(self._pool.targets):
            self._on_change(self)

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for callback in waiting:
            callback()


def _surface(task: asyncio.Task[None]) -> None:
    """Hand a fault of ours to the loop's exception handler now, not when the task is collected."""
    if not task.cancelled():
        task.result()
