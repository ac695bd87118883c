"""One epoll set for everything that waits: sockets with handlers, which are called from here, edge-triggered.

A worker's event loop uses the same set (`relay/loop.py`), so that a wake-up costs one `epoll_wait`. A socket
costs one `epoll_ctl` in its whole life: it is added for both directions, and closing takes it out.
"""

from __future__ import annotations

import asyncio
import select
import time
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Handler = Callable[[int], None]

# EPOLLPRI: a read stops at the urgent mark (tcp(7)), so only without it a short read means "drained".
_EDGE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET
# For a call without an edge: a short read tells as little as after urgent data.
_ANYTHING = select.EPOLLIN | select.EPOLLOUT | select.EPOLLPRI
_BATCH = 256
_MAX_BATCHES = 16


class Poller:
    """Calls one handler for each descriptor, with the epoll mask of each edge.

    A mask always belongs to the socket that was added: if a descriptor is closed and its number used again
    within one batch, the events that the batch still has for the old one are left out.
    """

    def __init__(self, epoll: select.epoll, wake: Callable[[], object]) -> None:
        """Use this set; `wake` is called when `poll` has to be called soon though no descriptor is ready."""
        self._epoll = epoll
        self._wake = wake
        self._handlers: dict[int, Handler] = {}
        # Added after the present batch was fetched: none of its events can be theirs.
        self._fresh: set[int] = set()
        self._unfinished: set[int] = set()
        self._leaving = False
        self._due: list[Callable[[], None]] = []
        self._before_wait: list[Callable[[], None]] = []

    def add(self, descriptor: int, handler: Handler) -> None:
        """Watch a descriptor; the kernel reports at once what is ready already.

        A descriptor that is watched already gets the new handler, and its state is reported again.
        """
        known = descriptor in self._handlers
        self._handlers[descriptor] = handler
        self._fresh.add(descriptor)
        if not known:
            self._epoll.register(descriptor, _EDGE)
            return
        try:
            self._epoll.modify(descriptor, _EDGE)
        except FileNotFoundError:  # closed without `forget`, and the number belongs to another socket now
            self._epoll.register(descriptor, _EDGE)

    def release(self, descriptor: int) -> None:
        """Stop watching a descriptor that stays open, for its next owner."""
        if self._handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def again(self, descriptor: int) -> None:
        """Call the handler again in the next turn, after the others: it had not finished."""
        self._hurry()
        self._unfinished.add(descriptor)

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back in the next turn."""
        self._hurry()
        self._due.append(callback)

    def before_wait(self, callback: Callable[[], None]) -> None:
        """Have this called before every wait, when all that was ready has been handled."""
        self._before_wait.append(callback)

    def wait_without(self, callback: Callable[[], None]) -> None:
        """Do not call this before a wait any more."""
        self._before_wait.remove(callback)

    def forget(self, descriptor: int) -> None:
        """Stop calling the handler; to be called just before the descriptor is closed."""
        self._handlers.pop(descriptor, None)

    def leave_out(self, descriptor: int) -> None:
        """Drop events of the present batch for a number, which belongs to another file now."""
        self._fresh.add(descriptor)

    def leave(self) -> None:
        """Have `poll` return after the present batch, because its caller has something to do."""
        self._leaving = True

    def poll(self, seconds: float) -> list[tuple[int, int]]:
        """Wait for at most `seconds` (below 0: for ever), call handlers, return events that have none.

        Goes on with the next batch if there is nothing else to do: a turn of the loop costs more than a wait.
        """
        until = time.monotonic() + seconds
        others: list[tuple[int, int]] = []
        for _ in range(_MAX_BATCHES):
            self._leaving = False
            unfinished, due = self._unfinished, self._due
            if unfinished or due:
                self._unfinished, self._due = set(), []
                others = self._batch(0.0)
                self._catch_up(unfinished, due)
            else:
                others = self._batch(seconds)
            if seconds >= 0.0:
                seconds = max(until - time.monotonic(), 0.0)
            if others or self._leaving or seconds == 0.0:
                break
        return others

    def close(self) -> None:
        """End; watched descriptors stay open."""
        self._epoll.close()

    def _batch(self, seconds: float) -> list[tuple[int, int]]:
        self._fresh.clear()
        others = []
        for callback in self._before_wait:
            callback()
        for descriptor, events in self._epoll.poll(seconds, _BATCH):
            if descriptor in self._fresh:
                continue
            handler = self._handlers.get(descriptor)
            if handler is None:
                others.append((descriptor, events))
                continue
            try:
                handler(events)
            except Exception as error:  # noqa: BLE001 - the other edges come only once
                _report(error)
        return others

    def _hurry(self) -> None:
        if not self._unfinished and not self._due:
            self._wake()

    def _catch_up(self, unfinished: set[int], due: list[Callable[[], None]]) -> None:
        calls: list[Callable[[], None]] = [partial(self._act_anew, each) for each in unfinished]
        for call in (*calls, *due):
            try:
                call()
            except Exception as error:  # noqa: BLE001 - the other calls come only once
                _report(error)

    def _act_anew(self, descriptor: int) -> None:
        handler = self._handlers.get(descriptor)
        if handler is not None:
            handler(_ANYTHING)


def _report(error: Exception) -> None:
    context = {"message": "a handler of the poller failed", "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)
