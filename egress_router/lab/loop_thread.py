"""An event loop in a thread of this process, with its sockets in any network namespace."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, TypeVar

from egress_router.kernel import netns

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

_T = TypeVar("_T")
_TURN_SECONDS = 60.0  # for a turn of the loop; long, because the machine may be busy


@contextlib.contextmanager
def serving(
    start: Callable[[], Coroutine[object, object, _T]], stop: Callable[[], object], namespace: Path
) -> Iterator[_T]:
    """Start a server in a loop of its own; at the end of the block it stops, and its tasks are cancelled."""
    loop = asyncio.new_event_loop()
    run = loop.run_forever if namespace == netns.OWN else lambda: netns.within(namespace, loop.run_forever)
    thread = threading.Thread(target=run, name="server in a thread")
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(start(), loop).result(_TURN_SECONDS)
    finally:
        asyncio.run_coroutine_threadsafe(_stop(stop), loop).result(_TURN_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_TURN_SECONDS)
        loop.close()


async def _stop(stop: Callable[[], object]) -> None:
    stop()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)  # transports close in the next turn of the loop
