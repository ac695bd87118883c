"""Keeps the workers running: starts them, hears them, and starts another one where one died."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.metrics import Snapshot, added, lasting
from egress_router.service import process, seats
from egress_router.service.control import (
    MOST_DESCRIPTORS,
    Channel,
    Close,
    Drain,
    Listeners,
    Report,
    Seated,
    Serve,
    Serving,
    StatusReport,
    ToWorker,
)
from egress_router.service.statuses import Statuses

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Mapping

    from egress_router.metrics import Registry
    from egress_router.service.control import Message
    from egress_router.service.mode import Json
    from egress_router.service.sockets import Listening

_FIRST_DELAY, _LONGEST_DELAY = 0.1, 10.0  # seconds before a dead worker's replacement starts
_SETTLED_SECONDS = 60.0  # a worker that lived so long did not die of its start
_SILENT_SECONDS = 30.0  # a report comes each second
_CLOSE_SECONDS = 2.0
_REMEDY = "raise the limits of open files, processes and memory, or lower EGRESS_WORKERS"
_log = log.get("service")


@dataclass(slots=True)
class Place:
    """One worker's place, and the process that is in it now (`pid` 0: none)."""

    index: int
    pid: int = 0
    channel: Channel | None = None
    started: float = 0.0  # monotonic
    heard: float = 0.0  # monotonic
    serves: bool = False
    delay: float = _FIRST_DELAY
    snapshot: Snapshot = field(default_factory=dict)


class Crew:
    """The worker processes. Each gets its own sockets of `listening`, and the rules given last."""

    def __init__(self, count: int, listening: Listening, registry: Registry) -> None:
        self._loop = asyncio.get_running_loop()
        self._places = tuple(Place(index) for index in range(count))
        self._listening = listening
        self._seats = seats.make(count)
        self._counts = seats.mapped(self._seats, count)
        self._serve = Serve(None, frozenset())
        self._ending = False
        self._all_gone = asyncio.Event()
        self._of_the_dead: Snapshot = {}
        self._restarts = registry.counter("worker_restarts_total", "Workers that died and were replaced.")
        self._serving = registry.gauge("workers_serving", "Workers that have rules and listen.")
        self._statuses = Statuses()
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)

    def start(self, rules: object, ports: frozenset[int]) -> None:
        """Start every worker with these rules.

        Raises:
            RefusedError: there are not enough processes, memory or descriptors.
        """
        self._serve = Serve(rules, ports)
        for place in self._places:
            try:
                self._spawn(place)
            except OSError as error:
                what = f"cannot start worker {place.index} ({error.strerror})"
                raise RefusedError(what, _REMEDY) from None

    def serve(self, rules: object, ports: frozenset[int], new_ports: frozenset[int]) -> None:
        """Hand other rules, and the sockets of new ports, to every worker."""
        self._serve = Serve(rules, ports)
        for place in self._places:
            if place.channel is not None:
                self._hand_over(place, new_ports)

    def complete(self) -> None:
        """Start at once the workers that wait for their time to start."""
        self._reap()
        for place in self._places:
            self._fill(place)

    async def end(self, seconds: float) -> None:
        """Let the workers finish what is open, for so long at most, then close it."""
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
        for place in self._places:
            if place.pid:
                os.kill(place.pid, signal.SIGKILL)

    def silent(self) -> tuple[str, ...]:
        """Say which workers hang: they run and do not report."""
        limit = time.monotonic() - _SILENT_SECONDS
        return tuple(
            f"worker {place.index} has not reported for {time.monotonic() - place.heard:.0f} s"
            for place in self._places
            if place.pid and place.heard < limit
        )

    def absent(self) -> tuple[str, ...]:
        """Say which workers do not serve."""
        return tuple(f"worker {place.index} does not serve" for place in self._places if not place.serves)

    def snapshot(self) -> Snapshot:
        """Return the workers' metrics, summed; counters include what dead workers had counted."""
        self._serving.value = sum(place.serves for place in self._places)
        return added([self._of_the_dead, *(place.snapshot for place in self._places)])

    async def status(self) -> dict[str, Json]:
        """Return what all workers say of themselves, put together."""
        return await self._statuses.ask(
            {
                place.index: place.channel
                for place in self._places
                if place.channel is not None and place.serves
            }
        )

    def processes(self) -> list[Json]:
        """Return the workers as a person wants to see them."""
        now = time.monotonic()
        return [
            {
                "index": place.index,
                "pid": place.pid or None,
                "serves": place.serves,
                "seconds": round(now - place.started) if place.pid else None,
            }
            for place in self._places
        ]

    def _fill(self, place: Place) -> None:
        """Start a worker in this place, and where none can be started, later."""
        if self._ending or place.pid:
            return
        try:
            self._spawn(place)
        except OSError as error:
            # Of processes, memory or descriptors there may be enough again in a moment.
            seconds = self._fill_later(place)
            _log.warning(
                "worker cannot be started",
                worker=place.index,
                reason=error.strerror,
                restart_seconds=seconds,
            )

    def _fill_later(self, place: Place) -> float:
        """Start a worker in this place after a time that grows with each start in vain; return it."""
        seconds = place.delay
        place.delay = min(seconds * 2, _LONGEST_DELAY)
        self._loop.call_later(seconds, self._fill, place)
        return seconds

    def _spawn(self, place: Place) -> None:
        place.pid, sock = process.start()
        place.started = place.heard = time.monotonic()
        place.channel = Channel(
            self._loop, sock, lambda message, _: self._received(place, message), lambda: self._lost(place)
        )
        place.channel.send(Seated(place.index, len(self._places)), [self._seats])
        self._hand_over(place, self._serve.ports)

    def _hand_over(self, place: Place, new_ports: Iterable[int]) -> None:
        """Give a worker the sockets of new ports, in portions that the kernel takes, then the rules."""
        sockets = self._listening.of_worker(place.index)
        ports = sorted(new_ports)
        try:
            for start in range(0, len(ports), MOST_DESCRIPTORS):
                portion = tuple(ports[start : start + MOST_DESCRIPTORS])
                _send(place, Listeners(portion), sockets)
        except OSError as error:
            # It is behind and cannot be given the sockets; it must not stay behind with other rules.
            _log.error(
                "worker does not take its sockets and is ended", worker=place.index, reason=error.strerror
            )
            os.kill(place.pid, signal.SIGKILL)
        else:
            _send(place, self._serve)

    def _tell(self, message: ToWorker) -> None:
        for place in self._places:
            _send(place, message)
        if not any(place.pid for place in self._places):
            self._all_gone.set()

    def _received(self, place: Place, message: Message) -> None:
        place.heard = time.monotonic()
        match message:
            case Serving():
                place.serves = True
                _log.info("worker serves", worker=place.index, pid=place.pid)
            case Report(snapshot):
                place.snapshot = snapshot
                if place.channel is not None:
                    self._statuses.refresh(place.index, place.channel)
            case StatusReport(number, status):
                self._statuses.answered(place.index, number, status)
            case _:
                raise AssertionError(f"a worker sent {message!r}")

    def _lost(self, place: Place) -> None:
        """The worker closed its end: it is dying, and its exit status comes with SIGCHLD."""
        place.channel = None
        place.serves = False

    def _reap(self) -> None:
        """Take the exit status of every dead child; as PID 1 also of strangers that were left to us."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for place in self._places:
                if place.pid == pid:
                    self._died(place, os.waitstatus_to_exitcode(status))

    def _died(self, place: Place, code: int) -> None:
        pid, place.pid = place.pid, 0
        if place.channel is not None:
            place.channel.close()
        self._lost(place)
        self._of_the_dead = added([self._of_the_dead, lasting(place.snapshot)])
        place.snapshot = {}
        self._statuses.died(place.index)
        self._counts[place.index] = 0
        if self._ending:
            if not any(each.pid for each in self._places):
                self._all_gone.set()
            return
        if time.monotonic() - place.started >= _SETTLED_SECONDS:
            place.delay = _FIRST_DELAY
        self._restarts.value += 1
        seconds = self._fill_later(place)
        _log.error(
            "worker died", worker=place.index, pid=pid, restart_seconds=seconds, **process.ending(code)
        )

    async def _gone_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._all_gone.wait()
        except TimeoutError:
            return False
        return True


def _send(place: Place, message: ToWorker, sockets: Mapping[int, socket.socket] | None = None) -> None:
    if place.channel is None:
        return
    ports = message.ports if isinstance(message, Listeners) else ()
    place.channel.send(message, [sockets[port].fileno() for port in ports] if sockets else ())
