"""Laboratories side by side, each in its own process: no trial affects another one."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

from egress_router.lab.failover.trial import Fault, Result, Trials

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

_END_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A trial without a result."""

    fault: Fault
    error: str


def run(faults: Iterator[Fault], parallel: int, *, has_arbiter: bool) -> Generator[Result | Failure]:
    """Run trials, `parallel` at once, and yield their results; closing the generator ends them all."""
    # Spawned: a forked process would have a copy of the others' pipes, and keep them open.
    context = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    busy: dict[Connection, Fault] = {}
    try:
        for _ in range(parallel):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, has_arbiter))
            process.start()
            theirs.close()
            processes.append(process)
            _give(ours, faults, busy)
        while busy:
            for ready in [each for each in wait(list(busy)) if each in busy]:
                yield _outcome(ready, faults, busy)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(_END_SECONDS)


def _give(laboratory: Connection, faults: Iterator[Fault], busy: dict[Connection, Fault]) -> None:
    fault = next(faults, None)
    if fault is not None:
        busy[laboratory] = fault
        laboratory.send(fault)


def _outcome(
    laboratory: Connection, faults: Iterator[Fault], busy: dict[Connection, Fault]
) -> Result | Failure:
    fault = busy.pop(laboratory)
    try:
        outcome: Result | Failure = laboratory.recv()
    except EOFError:
        return Failure(fault, "the process of its laboratory ended")
    _give(laboratory, faults, busy)
    return outcome


def _serve(orders: Connection, has_arbiter: bool) -> None:  # noqa: FBT001 (a process has no keywords)
    """Run trials until the parent closes the pipe; after a failure, in a new laboratory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal: the parent decides what follows
    signal.signal(signal.SIGTERM, _exit)
    trials: Trials | None = None
    try:
        while True:
            fault: Fault = orders.recv()
            try:
                trials = trials or Trials(has_arbiter=has_arbiter)
                orders.send(trials.run(fault))
            except Exception as error:  # noqa: BLE001 (any error: the trials after it are still useful)
                orders.send(Failure(fault, repr(error)))
                _close(trials)
                trials = None
    except EOFError:
        pass
    finally:
        _close(trials)


def _exit(_: int, __: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


def _close(trials: Trials | None) -> None:
    if trials is not None:
        with contextlib.suppress(OSError):
            trials.close()
