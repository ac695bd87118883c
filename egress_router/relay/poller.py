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

_EDGE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_BATCH = 256


class Poller:
    """Calls one handler a descriptor with the epoll mask of each edge.

    A handler must expect spurious wake-ups: inside one batch a descriptor may be closed and its number
    reused, so the system calls, not the mask, say what is so.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._drain)

    def add(self, descriptor: int, handler: Callable[[int], None]) -> None:
        """Watch a descriptor; the kernel reports at once what is already so."""
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, _EDGE)

    def replace(self, descriptor: int, handler: Callable[[int], None]) -> None:
        """Give a watched descriptor another handler; edges seen so far are not reported again."""
        self._handlers[descriptor] = handler

    def forget(self, descriptor: int) -> None:
        """Stop calling the handler; call it just before closing the descriptor."""
        self._handlers.pop(descriptor, None)

    def close(self) -> None:
        """Leave the event loop; watched descriptors stay open."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _drain(self) -> None:
        for descriptor, events in self._epoll.poll(0, _BATCH):
            handler = self._handlers.get(descriptor)
            if handler is not None:
                handler(events)
