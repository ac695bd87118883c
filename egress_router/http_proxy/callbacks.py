"""Callbacks of a connection. An exception in one closes the connection, which would stay open otherwise."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable


class Fallible(Protocol):
    """An object that belongs to a client's connection."""

    def fault(self, error: Exception) -> None:
        """Close the connection, because of an unexpected error."""


Self = TypeVar("Self", bound=Fallible)
Result = TypeVar("Result")


def callback(method: Callable[[Self], None]) -> Callable[[Self], None]:
    """Mark a method that the poller or a timer calls back."""

    @functools.wraps(method)
    def call(self: Self) -> None:
        try:
            method(self)
        except Exception as error:  # noqa: BLE001 - any error closes the connection
            self.fault(error)

    return call


def result_callback(method: Callable[[Self, Result], None]) -> Callable[[Self, Result], None]:
    """Mark a method that is called back with the result of a look-up or a dial."""

    @functools.wraps(method)
    def call(self: Self, result: Result) -> None:
        try:
            method(self, result)
        except Exception as error:  # noqa: BLE001 - any error closes the connection
            self.fault(error)

    return call
