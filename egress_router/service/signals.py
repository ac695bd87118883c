"""Signals that come before somebody can act on them wait, instead of being lost or ending the process."""

from __future__ import annotations

import signal

HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def hold() -> None:
    """Let these signals wait. As process 1 of a container the kernel drops those that nobody handles."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


def release() -> None:
    """Take those that wait, and from now on all of them at once."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
