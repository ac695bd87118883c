"""A worker as a process: how it starts, and what its exit code means."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, NoReturn

from egress_router.service import signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Work = Callable[[socket.socket], int]

_FAULT = 1


class Starter:
    """Starts workers: forks of this process that run `work` with their end of a control socket.

    All of them share the memory of what this process has loaded. `prepare` forks the first ones while this
    process has nothing yet that a fork would have to release: no loop, no sockets, no threads.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._ready: list[tuple[int, socket.socket]] = []

    def prepare(self, count: int) -> None:
        """Fork `count` workers for `start` to hand out; they wait for their first message.

        Failures are not reported here: `start` tries again, and raises.
        """
        with contextlib.suppress(OSError):
            self._ready += [_forked(self._work) for _ in range(count)]

    def start(self) -> tuple[int, socket.socket]:
        """Return the process id of a worker, and this end of its control socket.

        Raises:
            OSError: there are not enough processes, memory or descriptors.
        """
        return self._ready.pop(0) if self._ready else _forked(self._work)


def _forked(work: Work) -> tuple[int, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    # A later collection would write to every page that both share, and so copy it.
    gc.collect()
    gc.freeze()
    # No signal may reach the fork while it still has this process's handlers.
    held = signals.hold()
    try:
        running = asyncio._get_running_loop()  # noqa: SLF001 (see `_release_inherited`)
        task = None if running is None else asyncio.current_task(running)
        pid = os.fork()
        if pid == 0:
            _run_worker(work, theirs, running, task)
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
        signals.restore(held)
    return pid, ours


def _run_worker(
    work: Work,
    control: socket.socket,
    running: asyncio.AbstractEventLoop | None,
    task: asyncio.Task[object] | None,
) -> NoReturn:
    """Run as the worker and never return: the frames below belong to the supervisor."""
    status = _FAULT
    try:
        _release_inherited(control, running, task)
        # No message but the end of the stream: the supervisor ended before it needed this worker.
        status = work(control) if control.recv(1, socket.MSG_PEEK) else 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else _FAULT
    except BaseException:  # noqa: BLE001 - whatever it is, it ends here
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _release_inherited(
    control: socket.socket, running: asyncio.AbstractEventLoop | None, task: asyncio.Task[object] | None
) -> None:
    """Release what belongs to the supervisor: its loop, its signals, its descriptors.

    Its objects stay in memory, and are never used again.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if running is not None and task is not None:
        # asyncio has this for third-party loops: nothing else marks task and loop as no longer running here.
        with contextlib.suppress(RuntimeError):  # they are marked already
            asyncio._leave_task(running, task)  # noqa: SLF001
    asyncio._set_running_loop(None)  # noqa: SLF001
    keep = {0, 1, 2, control.fileno()}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 (iterdir makes Paths)
        if int(name) not in keep:
            with contextlib.suppress(OSError):  # the descriptor that listed the directory is closed already
                os.close(int(name))


def ending(code: int) -> dict[str, str | int]:
    """Return how a process ended, from its exit code (negative: the signal that ended it)."""
    if code >= 0:
        return {"exit_status": code}
    try:
        return {"signal": signal.Signals(-code).name}
    except ValueError:  # a real-time signal: Python names only the first and the last one
        return {"signal": -code}


def ended() -> Iterator[tuple[int, int]]:
    """Yield process id and exit code of every child that has ended; as PID 1 also of adopted orphans."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)
