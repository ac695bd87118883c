"""Hosts that are built together and end together: what every network of the laboratory is.

A network derives from `Hosts` and builds itself in its constructor, inside `building`, with the cables and
switches of `wiring`. So whatever fails half-way leaves no host behind.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Self, TypeVar

from egress_router.lab.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_T = TypeVar("_T")


class Hosts:
    """Hosts, and whatever else ends with them: the last one first."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every host and what runs in it."""
        self._open.close()

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """End everything that was made if the block fails."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def host(self, name: str) -> Host:
        """Make a host."""
        host = Host(name)
        self.at_end(host.close)
        return host

    def at_end(self, end: Callable[[], object]) -> None:
        """Have something ended before what was made earlier."""
        self._open.callback(end)

    def holds(self, thing: contextlib.AbstractContextManager[_T]) -> _T:
        """Enter a context until the end."""
        return self._open.enter_context(thing)
