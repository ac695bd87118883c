"""The signals of a router that stays: SIGTERM and SIGINT end it, SIGHUP has it read its rules again."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def hold() -> set[int]:
    """Let these signals wait, so that none is lost before somebody can act on it; return what waited before.

    As process 1 of a container the kernel drops those that nobody handles.
    """
    return {*signal.pthread_sigmask(signal.SIG_BLOCK, HELD)}


def restore(held: set[int]) -> None:
    """Let only those signals wait that waited before `hold`."""
    signal.pthread_sigmask(signal.SIG_SETMASK, held)


def release() -> None:
    """Take the signals that wait, and from now on each at once."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


def ignore() -> None:
    """From now on, have them change nothing: what was to be done is done, and the exit status is known.

    Loop and interpreter give the signals that they handled back to the kernel while they end. That would kill
    the process.
    """
    for number in HELD:
        signal.signal(number, signal.SIG_IGN)


def handle(loop: asyncio.AbstractEventLoop, end: Callable[[str], None], reload: Callable[[], None]) -> None:
    """Call `end` with the signal's name, and `reload`, from now on; what was held comes at once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number.name)
    loop.add_signal_handler(signal.SIGHUP, reload)
    release()
