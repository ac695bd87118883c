"""The background tasks of a process that runs until a signal: none of them ends unnoticed."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import TYPE_CHECKING, TypeVar

from egress_router import log
from egress_router.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable
    from typing import Any

T = TypeVar("T")
_log = log.get("service")


async def run_until(
    ended: asyncio.Event,
    coroutines: Iterable[Coroutine[None, None, None]],
    finish: Callable[[], Awaitable[None]],
) -> None:
    """Run each coroutine as a task until `ended` is set, then `finish` while they go on, then cancel them.

    A task ends only because of a bug. The process must not go on without it: the other tasks are ended too,
    and the error is raised. Errors in callbacks are logged.
    """
    asyncio.get_running_loop().set_exception_handler(log_fault)
    tasks = [asyncio.create_task(each) for each in coroutines]
    asked = asyncio.create_task(ended.wait())
    try:
        await asyncio.wait([asked, *tasks], return_when=asyncio.FIRST_COMPLETED)
        await finish()
    finally:
        for task in [asked, *tasks]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


def in_daemon_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Do what `asyncio.to_thread` does, in a daemon thread: the process can end without waiting for it.

    Work that waits for the kernel or the network may take as long as EGRESS_CLAIM_TIMEOUT.

    Raises:
        RefusedError: the thread cannot be started now; it may be in a moment.
    """
    outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
    outcome.set_running_or_notify_cancel()  # it cannot be cancelled from here on

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 (raised again, where it is awaited)
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    try:
        threading.Thread(target=run, name="kernel", daemon=True).start()
    except RuntimeError as error:  # all that Python says of a thread that the kernel refuses
        raise RefusedError(f"cannot start a thread ({error})", "raise the limit of processes") from None
    return asyncio.wrap_future(outcome)


def log_fault(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what a callback of an event loop raised, as one event; asyncio would write many lines."""
    error = context.get("exception")
    if isinstance(error, BaseException):
        _log.exception(context["message"], error)
    else:
        _log.error(context["message"])
