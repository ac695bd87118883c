"""The event loop of processes that relay nothing themselves: uvloop, if it is available.

A worker of a proxy has another loop, which waits for the data plane's descriptors (`relay.loop`).
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
    """Run the coroutine of `main` until it ends; docs/decisions/service.md has the loop's costs and savings.

    Raises:
        RefusedError: there are not enough descriptors.
    """
    try:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            try:
                runner.run(main())
            finally:
                signals.hold()  # while the loop removes its handlers
    finally:
        signals.ignore()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415 (it exists for CPython only)
    except ImportError:
        return asyncio.new_event_loop()
    # uvloop prints messages of its own if descriptors run out while it starts.
    require_descriptors("start an event loop")
    made: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return made


def require_descriptors(what: str) -> None:
    """Check that some descriptors are free, before a library runs out of them and prints its own errors.

    Raises:
        RefusedError: there are too few for this process to do `what`.
    """
    opened: list[int] = []
    try:
        for _ in range(_DESCRIPTORS):
            opened.append(os.open(os.devnull, os.O_RDONLY))  # noqa: PERF401 (after a failure they are closed as well)
    except OSError as error:
        raise RefusedError(f"cannot {what} ({error.strerror})", "raise the limit of open files") from None
    finally:
        for each in opened:
            os.close(each)
