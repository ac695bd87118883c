"""One edge-triggered epoll set, nested in the event loop.

Its descriptor is registered once with the loop; each wake-up drains a batch. A socket costs one `epoll_ctl`
for its whole life: it is added for both directions, edge-triggered, and closing it takes it out.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

# EPOLLPRI: a read ends at the urgent mark (tcp(7)), so a short read means "drained" only without it.
_EDGE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET
_EVERYTHING = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP
_BATCH = 256


class Poller:
    """Calls one handler a descriptor with the epoll mask of each edge.

    A mask always is about the socket that was added: when a descriptor is closed and its number reused inside
    one batch, what the batch still holds for the old one is left out.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        # Added since the batch at hand was fetched: no event of it can be theirs.
        self._fresh: set[int] = set()
        self._unfinished: set[int] = set()
        loop.add_reader(self._epoll.fileno(), self._drain)

    def add(self, descriptor: int, handler: Callable[[int], None]) -> None:
        """Watch a descriptor; the kernel reports at once what is already so.

        A descriptor that is watched already gets the new handler, and its state is reported again.
        """
        known = descriptor in self._handlers
        self._handlers[descriptor] = handler
        self._fresh.add(descriptor)
        if known:
            try:
                self._epoll.modify(descriptor, _EDGE)
            except FileNotFoundError:  # closed without `forget`, and the number is another socket's now
                self._epoll.register(descriptor, _EDGE)
        else:
            self._epoll.register(descriptor, _EDGE)

    def replace(self, descriptor: int, handler: Callable[[int], None]) -> None:
        """Give a watched descriptor another handler; edges seen so far are not reported again."""
        self._handlers[descriptor] = handler

    def again(self, descriptor: int) -> None:
        """Call the handler once more in the loop's next turn, after everybody else's: it had not finished."""
        if not self._unfinished:
            self._loop.call_soon(self._repeat)
        self._unfinished.add(descriptor)

    def forget(self, descriptor: int) -> None:
        """Stop calling the handler; call it just before closing the descriptor."""
        self._handlers.pop(descriptor, None)

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back in the loop's next turn."""
        self._loop.call_soon(callback)

    def close(self) -> None:
        """Leave the event loop; watched descriptors stay open."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _drain(self) -> None:
        self._fresh.clear()
        for descriptor, events in self._epoll.poll(0, _BATCH):
            handler = self._handlers.get(descriptor)
            if handler is not None and descriptor not in self._fresh:
                try:
                    handler(events)
                except Exception as error:  # noqa: BLE001 - the edges of the others come only once
                    self._report(error)

    def _repeat(self) -> None:
        unfinished, self._unfinished = self._unfinished, set()
        for descriptor in unfinished:
            handler = self._handlers.get(descriptor)
            if handler is not None:
                try:
                    handler(_EVERYTHING)
                except Exception as error:  # noqa: BLE001 - the others' turns come only once
                    self._report(error)

    def _report(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": "a handler of the poller failed", "exception": error})
