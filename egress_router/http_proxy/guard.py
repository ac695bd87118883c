"""A fault of ours ends the session in which it shows: otherwise it would hang, and keep its place."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable


class Fallible(Protocol):
    """What belongs to a session."""

    def fault(self, error: Exception) -> None:
        """End the session, because of something that must not happen."""


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
