"""A fault of ours ends the session in which it shows: otherwise it would hang, and keep its place."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Protocol, TypeVar, TypeVarTuple, Unpack

if TYPE_CHECKING:
    from collections.abc import Callable


class Fallible(Protocol):
    """What belongs to a session."""

    def fault(self, error: Exception) -> None:
        """End the session, because of something that must not happen."""


Self = TypeVar("Self", bound=Fallible)
Arguments = TypeVarTuple("Arguments")


def guarded(
    method: Callable[[Self, Unpack[Arguments]], None],
) -> Callable[[Self, Unpack[Arguments]], None]:
    """Guard a method that somebody else calls back: the poller, a timer, a look-up."""

    @functools.wraps(method)
    def call(self: Self, /, *args: *Arguments) -> None:
        try:
            method(self, *args)
        except Exception as error:  # noqa: BLE001 - whatever it is
            self.fault(error)

    return call
