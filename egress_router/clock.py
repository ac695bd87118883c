"""The one clock; it is passed in wherever time matters, so that a test can set it."""

from __future__ import annotations

import time
from typing import Final, Protocol


class Clock(Protocol):
    """Tells the time; code that depends on time never asks the system itself."""

    def monotonic(self) -> float:
        """Return seconds since some fixed moment; never goes back. For durations and time-outs."""

    def time(self) -> float:
        """Return seconds since 1970-01-01 UTC; may be set back. For people only."""


class SystemClock:
    """The clock of this machine."""

    __slots__ = ()

    # Bound directly: methods around them cost 1 % of a GET (Python 3.11, docs/decisions/performance.md).
    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)


SYSTEM: Final[Clock] = SystemClock()
