"""Callbacks of a connection: an exception in one closes it; otherwise it would stay open for ever."""

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


def callback(method: Callable[[Self], None]) -> Callable[[Self], None]:
    """Mark a method that somebody else calls back: the poller, a timer."""

    @functools.wraps(method)
    def call(self: Self) -> None:
        try:
            method(self)
        except Exception as error:  # noqa: BLE001 - whatever it is
            self.fault(error)

    return call


def result_callback(method: Callable[[Self, Result], None]) -> Callable[[Self, Result], None]:
    """Mark a method that is called back with a result: of a look-up, of a dial."""

    @functools.wraps(method)
    def call(self: Self, result: Result) -> None:
        try:
            method(self, result)
        except Exception as error:  # noqa: BLE001 - whatever it is
            self.fault(error)

    return call
