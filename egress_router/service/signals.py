"""The signals of a long-running router: SIGTERM and SIGINT end it, SIGHUP makes it read its rules again."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def hold() -> set[int]:
    """Block these signals, so that none is lost before it can be handled; return what was blocked before.

    For process 1 of a container the kernel drops signals that have no handler.
    """
    return {*signal.pthread_sigmask(signal.SIG_BLOCK, HELD)}


def restore(held: set[int]) -> None:
    """Block only the signals that were blocked before `hold`."""
    signal.pthread_sigmask(signal.SIG_SETMASK, held)


def release() -> None:
    """Unblock these signals: those that wait come now, later ones at once."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


def ignore() -> None:
    """Ignore these signals from now on: all work is done, and the exit status is known.

    While they end, loop and interpreter restore the default actions of the signals that they handled. That
    would kill the process.
    """
    for number in HELD:
        signal.signal(number, signal.SIG_IGN)


def handle(loop: asyncio.AbstractEventLoop, end: Callable[[str], None], reload: Callable[[], None]) -> None:
    """From now on, call `end` with the signal's name, and `reload`; signals that were held come at once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number.name)
    loop.add_signal_handler(signal.SIGHUP, reload)
    release()
