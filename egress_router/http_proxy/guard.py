"""A fault of ours closes the connection in which it shows: otherwise that would stay open for ever."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable


class Fallible(Protocol):
    """What belongs to a client's connection."""

    def fault(self, error: Exception) -> None:
        """Close the connection, because of something that must not happen."""


Self = TypeVar("Self", bound=Fallible)
Result = TypeVar("Result")


def guarded(method: Callable[[Self], None]) -> Callable[[Self], None]:
    """Guard a method that somebody else calls back: the poller, a timer."""

    @functools.wraps(method)
    def call(self: Self) -> None:
        try:
            method(self)
        except Exception as error:  # noqa: BLE001 - whatever it is
            self.fault(error)

    return call


def guarded_result(method: Callable[[Self, Result], None]) -> Callable[[Self, Result], None]:
    """Guard a method that is called back with a result: of a look-up, of a dial."""

    @functools.wraps(method)
    def call(self: Self, result: Result) -> None:
        try:
            method(self, result)
        except Exception as error:  # noqa: BLE001 - whatever it is
            self.fault(error)

    return call
