"""The standard event loop on the poller's epoll set: one wait for the poller's sockets and everything else.

If the poller's set were nested in the loop's, each wake-up would cost a second `epoll_wait`, and each event a
second list in the kernel: docs/decisions/performance.md has the figures.
"""

from __future__ import annotations

import asyncio
import os
import select
import selectors
from typing import TYPE_CHECKING

from egress_router.relay.poller import Poller

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context
    from typing import TypeVarTuple, Unpack

    from _typeshed import FileDescriptorLike

    Arguments = TypeVarTuple("Arguments")

_Key = selectors.SelectorKey


class PollerLoop(asyncio.SelectorEventLoop):
    """While it waits, `poller` calls its handlers; the loop itself runs only if it has something to do."""

    def __init__(self) -> None:
        selector = _Selector()
        self.poller = selector.poller
        super().__init__(selector)

    def call_soon(
        self,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Call back in the next turn of the loop."""
        self.poller.leave()
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back at a time of the loop's clock."""
        self.poller.leave()
        return super().call_at(when, callback, *args, context=context)


class _Selector(selectors.EpollSelector):
    """What `asyncio.SelectorEventLoop` waits with."""

    def __init__(self) -> None:
        super().__init__()
        # The duplicate is the same set (epoll(7)): each side may close its own descriptor.
        self.poller = Poller(select.epoll.fromfd(os.dup(self.fileno())), _nothing)

    def register(
        self, fileobj: FileDescriptorLike, events: int, data: object = None
    ) -> selectors.SelectorKey:
        """Watch a descriptor for the loop."""
        key = super().register(fileobj, events, data)
        self.poller.leave_out(key.fd)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[_Key, int]]:
        """Wait; return what is ready for the loop."""
        ready = []
        keys = self.get_map()
        for descriptor, events in self.poller.poll(-1.0 if timeout is None else max(timeout, 0.0)):
            key = keys.get(descriptor)
            if key is not None:
                # As in the base class: an error makes both ready.
                read = selectors.EVENT_READ if events & ~select.EPOLLOUT else 0
                write = selectors.EVENT_WRITE if events & ~select.EPOLLIN else 0
                ready.append((key, (read | write) & key.events))
        return ready

    def close(self) -> None:
        """End; watched descriptors stay open."""
        self.poller.close()
        super().close()


def _nothing() -> None:
    """Do nothing: `Poller.soon` is called by a handler or in a turn of the loop, and `select` comes next."""
