"""A worker as a process: how it begins, and what its end means."""

from __future__ import annotations

import os
import signal
import socket
import sys

from egress_router.service import signals


def start() -> tuple[int, socket.socket]:
    """Start a worker; return its process id and this end of its control socket.

    Raises:
        OSError: there are not enough processes, memory or descriptors.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        theirs.set_inheritable(True)
        # The command line of this process once more: the same program, interpreter options and mode.
        command = [sys.executable, *sys.orig_argv[1:], "--worker", str(theirs.fileno())]
        try:
            return os.posix_spawn(sys.executable, command, os.environ, setsigmask=signals.HELD), ours
        except OSError:
            ours.close()
            raise


def ending(code: int) -> dict[str, str | int]:
    """Say how a process ended, from its exit code (negative: the signal that ended it)."""
    if code >= 0:
        return {"exit_status": code}
    try:
        return {"signal": signal.Signals(-code).name}
    except ValueError:  # a real-time signal: Python names only the first and the last one
        return {"signal": -code}
