"""Keeps the workers running: starts them, takes their messages, and replaces those that die."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.metrics import Snapshot, added, lasting
from egress_router.service import process, shared_memory, watchdog
from egress_router.service.control import (
    Assigned,
    Channel,
    Close,
    Drain,
    Report,
    Serve,
    Serving,
    StatusReport,
    ToWorker,
)
from egress_router.service.watchdog import Watchdog
from egress_router.service.worker_slot import WorkerSlot
from egress_router.service.worker_status import WorkerStatuses

if TYPE_CHECKING:
    from collections.abc import Iterable

    from egress_router.clock import Clock
    from egress_router.metrics import Registry
    from egress_router.service.control import Message
    from egress_router.service.mode import Json
    from egress_router.service.sockets import Listening

_LOST_SECONDS = 30.0  # a worker that is silent for this long could not even be killed
_CLOSE_SECONDS = 2.0
_REAP_SECONDS = 0.02
_REMEDY = "raise the limits of open files, processes and memory, or lower EGRESS_WORKERS"
_log = log.get("service")


class WorkerPool:
    """The worker processes. Each gets its own sockets of `listening`, and the latest rules."""

    def __init__(
        self, count: int, starter: process.Starter, listening: Listening, registry: Registry, clock: Clock
    ) -> None:
        self._clock = clock
        self._starter = starter
        self._watchdog = Watchdog(clock)
        self._loop = asyncio.get_running_loop()
        self._slots = tuple(WorkerSlot(index) for index in range(count))
        self._listening = listening
        self._memory = shared_memory.make(count)
        self._counts = shared_memory.mapped(self._memory, count).counts
        self._serve = Serve(None, frozenset())
        self._ending = False
        self._all_gone = asyncio.Event()
        self._dead_totals: Snapshot = {}
        self._restarts = registry.counter("worker_restarts_total", "Workers that died and were replaced.")
        self._serving = registry.gauge("workers_serving", "Workers that have rules and listen.")
        self._statuses = WorkerStatuses(clock)

    def start(self, rules: object, ports: frozenset[int]) -> None:
        """Start every worker with these rules.

        Raises:
            RefusedError: there are not enough processes, memory or descriptors.
        """
        self._serve = Serve(rules, ports)
        for slot in self._slots:
            try:
                self._spawn(slot)
            except OSError as error:
                what = f"cannot start worker {slot.index} ({error.strerror})"
                raise RefusedError(what, _REMEDY) from None

    def serve(self, rules: object, ports: frozenset[int], new_ports: frozenset[int]) -> None:
        """Hand new rules, and the sockets of new ports, to every worker."""
        self._serve = Serve(rules, ports)
        for slot in self._slots:
            if slot.channel is not None:
                self._hand_over(slot, new_ports)

    def complete(self) -> None:
        """Start the missing workers at once, without waiting for their back-off."""
        self._reap()
        for slot in self._slots:
            self._fill(slot)

    async def end(self, seconds: float) -> None:
        """Let the workers finish open connections for this long at most, then close them."""
        self._ending = True
        self._tell(Drain())
        if await self._gone_within(seconds):
            return
        _log.warning("time to finish is over; what is open is closed", seconds=seconds)
        self._tell(Close())
        if not await self._gone_within(_CLOSE_SECONDS):
            self.kill()

    def kill(self) -> None:
        """End every worker at once."""
        self._ending = True
        for slot in self._slots:
            slot.kill()

    async def watch(self) -> None:
        """Replace workers that hang (stopped, in an endless loop): clients in their accept queues wait."""
        while True:
            await asyncio.sleep(watchdog.INTERVAL)
            self._reap()
            if self._ending:
                continue
            for index, seconds in self._watchdog.overdue().items():
                pid = self._slots[index].pid
                _log.error(
                    "worker does not report and is replaced", worker=index, pid=pid, seconds=round(seconds)
                )
                os.kill(pid, signal.SIGKILL)

    def silent(self) -> tuple[str, ...]:
        """Return which workers hang although they were killed: only a restart of the container may help."""
        silent = self._watchdog.silent(_LOST_SECONDS, watchdog.STARTING_SECONDS + _LOST_SECONDS)
        return tuple(
            f"worker {slot} has not reported for {seconds:.0f} s" for slot, seconds in silent.items()
        )

    def absent(self) -> tuple[str, ...]:
        """Return which workers do not serve."""
        return tuple(f"worker {slot.index} does not serve" for slot in self._slots if not slot.serves)

    def snapshot(self) -> Snapshot:
        """Return the workers' metrics, summed; counters include what dead workers had counted."""
        self._serving.value = sum(slot.serves for slot in self._slots)
        return added([self._dead_totals, *(slot.snapshot for slot in self._slots)])

    async def status(self) -> dict[str, Json]:
        """Return the statuses of all workers, merged into one."""
        return await self._statuses.ask(
            {slot.index: slot.channel for slot in self._slots if slot.channel is not None and slot.serves}
        )

    def processes(self) -> list[Json]:
        """Return the workers for `/status`."""
        now = self._clock.monotonic()
        return [slot.shown(now) for slot in self._slots]

    def _fill(self, slot: WorkerSlot) -> None:
        """Start a worker in this slot; if none can be started, try again later."""
        if self._ending or slot.pid:
            return
        try:
            self._spawn(slot)
        except OSError as error:
            # There may be enough processes, memory or descriptors again in a moment.
            seconds = self._fill_later(slot)
            _log.warning(
                "worker cannot be started",
                worker=slot.index,
                reason=error.strerror,
                restart_seconds=seconds,
            )

    def _fill_later(self, slot: WorkerSlot) -> float:
        """Start a worker in this slot after a back-off, which grows with each start; return its seconds."""
        seconds = slot.next_delay()
        self._loop.call_later(seconds, self._fill, slot)
        return seconds

    def _spawn(self, slot: WorkerSlot) -> None:
        slot.pid, sock = self._starter.start()
        slot.started = self._clock.monotonic()
        self._watchdog.started(slot.index)
        slot.channel = Channel(
            self._loop, sock, lambda message, _: self._received(slot, message), lambda: self._lost(slot)
        )
        slot.channel.send(Assigned(slot.index, len(self._slots)), [self._memory])
        self._hand_over(slot, self._serve.ports)

    def _hand_over(self, slot: WorkerSlot, new_ports: Iterable[int]) -> None:
        slot.hand_over(self._serve, new_ports, self._listening.of_worker(slot.index))

    def _tell(self, message: ToWorker) -> None:
        for slot in self._slots:
            slot.send(message)
        if not any(slot.pid for slot in self._slots):
            self._all_gone.set()

    def _received(self, slot: WorkerSlot, message: Message) -> None:
        match message:
            case Serving():
                slot.serves = True
                _log.info("worker serves", worker=slot.index, pid=slot.pid)
            case Report(snapshot):
                slot.snapshot = snapshot
                if slot.channel is not None:
                    self._statuses.refresh(slot.index, slot.channel)
            case StatusReport(number, status):
                self._statuses.answered(slot.index, number, status)
            case _:
                raise AssertionError(f"a worker sent {message!r}")
        self._watchdog.heard(slot.index, serves=slot.serves)

    def _lost(self, slot: WorkerSlot) -> None:
        """Note that the worker closed its end: it is dying, and has an exit status in a moment.

        SIGCHLD would say so, too, but uvloop keeps that signal for itself.
        """
        slot.channel = None
        slot.serves = False
        self._reap_soon()

    def _reap_soon(self) -> None:
        self._reap()
        if any(slot.pid and slot.channel is None for slot in self._slots):
            self._loop.call_later(_REAP_SECONDS, self._reap_soon)

    def _reap(self) -> None:
        """Take the exit status of every dead child; as PID 1 also of adopted orphans."""
        for pid, code in process.ended():
            for slot in self._slots:
                if slot.pid == pid:
                    self._died(slot, code)

    def _died(self, slot: WorkerSlot, code: int) -> None:
        pid, slot.pid = slot.pid, 0
        self._watchdog.ended(slot.index)
        if slot.channel is not None:
            slot.channel.close()
        self._lost(slot)
        self._dead_totals = added([self._dead_totals, lasting(slot.snapshot)])
        slot.snapshot = {}
        self._statuses.died(slot.index)
        self._counts[slot.index] = 0
        if self._ending:
            if not any(each.pid for each in self._slots):
                self._all_gone.set()
            return
        slot.settle(self._clock.monotonic())
        self._restarts.value += 1
        seconds = self._fill_later(slot)
        _log.error("worker died", worker=slot.index, pid=pid, restart_seconds=seconds, **process.ending(code))

    async def _gone_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._all_gone.wait()
        except TimeoutError:
            return False
        return True
