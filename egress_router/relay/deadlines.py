"""Coarse timers: thousands of time-outs behind one timer of the event loop.

A time-out hardly ever fires: it is cancelled, or put off with every byte. So due times are rounded up into
buckets, cancelling removes an entry from a set, and putting off only writes a number, which is looked at when
the bucket is due.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

from egress_router.clock import SYSTEM

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from egress_router.clock import Clock

# Short times are rounded to steps that are this much finer than a tick.
_FINE = 16
# A time is short if a tick is more than a tenth of it.
_SHORT_TICKS = 10


class Deadline:
    """One time-out; made by `Deadlines.add`."""

    __slots__ = ("_callback", "_clock", "bucket", "due", "seconds")

    def __init__(
        self, bucket: set[Deadline], due: float, seconds: float, callback: Callable[[], None], clock: Clock
    ) -> None:
        self._callback: Callable[[], None] | None = callback
        self._clock = clock
        self.bucket = bucket
        self.due = due
        self.seconds = seconds

    def touch(self) -> None:
        """Begin the full time again."""
        self.due = self._clock.monotonic() + self.seconds

    def cancel(self) -> None:
        """Never call back; does nothing when called twice, or after the callback."""
        # Dropping the callback breaks the reference cycle with its owner.
        self._callback = None
        self.bucket.discard(self)

    def fire(self) -> None:
        """Call back, unless cancelled."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Deadlines:
    """Time-outs that never fire early, and late by at most a tick, short ones by a 16th of a tick.

    `clock` decides what is due; the loop only says when to look.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tick: float = 0.5, clock: Clock = SYSTEM) -> None:
        self._loop = loop
        self._clock = clock
        self._short = _SHORT_TICKS * tick
        self._step = tick / _FINE
        self._buckets: dict[int, set[Deadline]] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_bucket = 0

    def add(self, seconds: float, callback: Callable[[], None]) -> Deadline:
        """Call back once, `seconds` from now or from the last `touch`."""
        due = self._clock.monotonic() + seconds
        bucket = self._bucket(due, seconds)
        deadline = Deadline(bucket, due, seconds, callback, self._clock)
        bucket.add(deadline)
        return deadline

    def close(self) -> None:
        """Drop all time-outs, and cancel the timer in the event loop."""
        self._buckets.clear()
        self._order.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _bucket(self, due: float, seconds: float) -> set[Deadline]:
        number = math.ceil(due / self._step)
        if seconds >= self._short:
            number = -(-number // _FINE) * _FINE
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = set()
            heapq.heappush(self._order, number)
            if self._timer is None or number < self._timer_bucket:
                self._arm()
        return bucket

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._order:
            self._timer_bucket = self._order[0]
            wait = self._timer_bucket * self._step - self._clock.monotonic()
            self._timer = self._loop.call_later(max(wait, 0.0), self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        try:
            while self._order and self._order[0] * self._step <= now:
                self._empty(self._buckets[self._order[0]], now)
                del self._buckets[heapq.heappop(self._order)]
        finally:
            # What is left: the loop's clock may lag behind, or a callback may have raised.
            self._arm()

    def _empty(self, bucket: set[Deadline], now: float) -> None:
        while bucket:
            deadline = bucket.pop()
            if deadline.due > now:
                deadline.bucket = self._bucket(deadline.due, deadline.seconds)
                deadline.bucket.add(deadline)
            else:
                deadline.fire()
