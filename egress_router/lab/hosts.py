"""Hosts that are created and closed together: the base of every network of the laboratory.

A network derives from `Hosts` and builds itself in its constructor, inside `building`, with the cables and
switches of `wiring`. Then a failure half-way leaves no host behind.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Self, TypeVar

from egress_router.lab.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_T = TypeVar("_T")


class Hosts:
    """Hosts and other things that `close` ends, in reverse order of their creation."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every host, and everything else that was registered."""
        self._open.close()

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """Close everything if the block fails."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def host(self, name: str) -> Host:
        """Create a host."""
        host = Host(name)
        self.at_end(host.close)
        return host

    def at_end(self, end: Callable[[], object]) -> None:
        """Have `close` call `end`, before it ends what was created earlier."""
        self._open.callback(end)

    def enter(self, context: contextlib.AbstractContextManager[_T]) -> _T:
        """Enter a context, which `close` leaves."""
        return self._open.enter_context(context)
