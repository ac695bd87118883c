"""The event loop of processes that relay nothing themselves: uvloop's, where it can be had.

A worker of a proxy has a loop of its own, on the data plane's descriptors (`relay.loop`).
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

from egress_router.errors import RefusedError
from egress_router.service import signals

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_DESCRIPTORS: Final = 12  # a loop opens 9; what comes next opens more


def run(main: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run what `main` returns until it ends; docs/decisions/service.md says what the loop costs and saves.

    Raises:
        RefusedError: there are not enough descriptors.
    """
    try:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            try:
                runner.run(main())
            finally:
                signals.hold()  # while the loop gives its handlers back
    finally:
        signals.ignore()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415 (there is none for other interpreters than CPython)
    except ImportError:
        return asyncio.new_event_loop()
    require_descriptors(
        "start an event loop"
    )  # uvloop prints lines of its own when they run out while it begins
    made: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return made


def require_descriptors(what: str) -> None:
    """Check that some descriptors are free, before libraries that report their lack in their own words.

    Raises:
        RefusedError: there are not, so that this process cannot do `what`.
    """
    opened: list[int] = []
    try:
        for _ in range(_DESCRIPTORS):
            opened.append(os.open(os.devnull, os.O_RDONLY))  # noqa: PERF401 (they are closed after a failure, too)
    except OSError as error:
        raise RefusedError(f"cannot {what} ({error.strerror})", "raise the limit of open files") from None
    finally:
        for each in opened:
            os.close(each)
