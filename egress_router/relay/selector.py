"""The standard event loop on the poller's epoll set: one wait for relayed sockets and for everything else.

A set nested in the loop's own costs a second `epoll_wait` for each wake-up, and in the kernel a second list
for each event: docs/decisions/performance.md has the figures.
"""

from __future__ import annotations

import os
import select
import selectors
from typing import TYPE_CHECKING

from egress_router.relay.poller import Poller

if TYPE_CHECKING:
    from typing import Any

    from _typeshed import FileDescriptorLike


class PollerSelector(selectors.EpollSelector):
    """A selector for `asyncio.SelectorEventLoop`; while it waits, `poller` calls its handlers."""

    def __init__(self) -> None:
        super().__init__()
        # A duplicate is the same set (epoll(7)), with a descriptor that each side may close for itself.
        self.poller = Poller(select.epoll.fromfd(os.dup(self.fileno())), _nothing)

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a descriptor for the loop."""
        key = super().register(fileobj, events, data)
        self.poller.leave_out(key.fd)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait; return what is ready for the loop."""
        ready = []
        keys = self.get_map()
        for descriptor, events in self.poller.poll(-1.0 if timeout is None else max(timeout, 0.0)):
            key = keys.get(descriptor)
            if key is not None:
                # As the base class: an error is ready for both.
                read = selectors.EVENT_READ if events & ~select.EPOLLOUT else 0
                write = selectors.EVENT_WRITE if events & ~select.EPOLLIN else 0
                ready.append((key, (read | write) & key.events))
        return ready

    def close(self) -> None:
        """End; watched descriptors stay open."""
        self.poller.close()
        super().close()


def _nothing() -> None:
    """Who calls `Poller.soon` is in a handler or in a turn of the loop: `select` comes next by itself."""
