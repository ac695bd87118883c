"""The shell of the pair protocol: one thread that waits, asks the state machine, and does what it says.

Its process also serves rules, names and pages. It has a thread of its own, so that none of these delays a
heartbeat for long. If anything stops the thread, the kernel closes the gate.
"""

from __future__ import annotations

import asyncio
import math
import queue
import select
import socket
import threading
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.clock import SYSTEM, Clock
from egress_router.errors import RefusedError
from egress_router.kernel.link_address import set_mac
from egress_router.service.tasks import in_daemon_thread
from egress_router.standby.conflict_detection import ConflictDetection
from egress_router.standby.effects import Effects
from egress_router.standby.executor import Executor
from egress_router.standby.link_monitor import LinkMonitor
from egress_router.standby.protocol.role import Role
from egress_router.standby.protocol.state_machine import StateMachine
from egress_router.standby.protocol.steady_clock import SteadyClock
from egress_router.standby.status_publisher import StatusPublisher
from egress_router.standby.status_socket import StatusSocket
from egress_router.standby.transport.contacts import ContactTable
from egress_router.standby.transport.link_socket import LinkSocket
from egress_router.standby.transport.pod_network import PodNetwork
from egress_router.standby.transport.receiver import Received, Receiver

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.grammar.address import IPAddress
    from egress_router.kernel.fence import Fence
    from egress_router.standby.network import RouterConfig
    from egress_router.standby.protocol.commands import ArbiterAnswer, AskArbiter, Command
    from egress_router.standby.status import Status

DRAIN_SECONDS = 5.0  # a router that has handed over stays for at most so long, to help its successor
_SUCCESSOR_SECONDS = 2.0  # how long a request to hand over waits for a successor
TICK = 0.025  # seconds
_log = log.get("standby")


class Agent:
    """One router of the group. Call `start`, and `leave` before the process ends."""

    def __init__(
        self,
        config: RouterConfig,
        fence: Fence,
        number: int,
        ask: Callable[[AskArbiter], None] | None = None,
        changed: Callable[[Status], None] = lambda _: None,
        clock: Clock = SYSTEM,
    ) -> None:
        """Create it; `fence` is up and closed.

        `ask` passes a request on to the arbiter; `changed` is called with every new status.
        """
        clock = SteadyClock(clock)
        now = clock.monotonic()
        self.config = config
        self.number = number
        self.failure: RefusedError | None = None
        self.ended = threading.Event()
        self._fence = fence
        self._ask = ask
        self._status = StatusPublisher(config.sources, changed, clock)
        self._clock = clock
        self._machine = StateMachine(self.number, now, has_arbiter=ask is not None)
        self._contacts = ContactTable(now)
        self._calls: queue.SimpleQueue[Callable[[float], list[Command]]] = queue.SimpleQueue()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._conflicts = ConflictDetection(now, config.claim_timeout)
        self._drain_until: float | None = None
        self._hand_over_until = -math.inf  # until when a request to hand over waits for a successor
        self._thread = threading.Thread(target=self._run, name="standby", daemon=True)

    # From other threads

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def status(self) -> Status:
        """The current status of this router."""
        return self._status.status

    def answer(self, answer: ArbiterAnswer) -> None:
        """Pass on an answer of the arbiter."""
        self._call(lambda now: self._machine.arbiter_answered(answer, now))

    def arbiter_trouble(self, text: str | None) -> None:
        """Set what is wrong with the arbiter; None if nothing is."""
        self._status.trouble = text

    def leave(self) -> None:
        """Hand over, and end within DRAIN_SECONDS; then `ended` is set."""

        def begin(now: float) -> list[Command]:
            self._drain_until = now + DRAIN_SECONDS
            return self._machine.leave(now)

        self._call(begin)

    async def until_failure(self) -> None:
        """Wait until the thread fails; for callers that run an event loop.

        Raises:
            RefusedError: a station outside the group has the address, or the kernel refused.
        """
        await in_daemon_thread(self.ended.wait)
        if self.failure is not None:
            raise self.failure
        await asyncio.Event().wait()  # it was asked to leave: the caller's other tasks decide when to end

    def _call(self, work: Callable[[float], list[Command]]) -> None:
        self._calls.put(work)
        self._wake_writer.send(b"!")

    # The thread

    def _run(self) -> None:
        try:
            self._serve()
        except RefusedError as error:
            self.failure = error
        except Exception as error:  # noqa: BLE001 (the kernel closes the gate; the process logs it and ends)
            _log.exception("the standby thread failed", error)
            self.failure = RefusedError("the standby thread failed", "see the log, and report this fault")
        finally:
            self.ended.set()
            self._status.end()

    def _serve(self) -> None:
        config = self.config
        set_mac(config.index, config.own_mac)
        with (
            StatusSocket() as self._status_socket,
            PodNetwork(config.pod_address, config.port, config.mark) as self._pod,
            LinkSocket(config.interface, config.index, config.own_mac) as self._link_socket,
            LinkMonitor(config.interface) as self._link,
        ):
            self._effects = Effects(
                config, self._fence, self._link_socket, self._pod, self._contacts, self._clock
            )
            self._executor = Executor(
                self._machine,
                self._effects,
                self._contacts,
                self._status,
                self._ask,
                self._clock,
            )
            self._receiver = Receiver(config, self.number, self._link_socket, self._pod, self._contacts)
            self._loop()

    def _loop(self) -> None:
        poller = select.poll()
        for each in (self._link_socket, self._pod, self._wake_reader, self._status_socket, self._link):
            descriptor = each.fileno()
            if descriptor is not None:
                poller.register(descriptor, select.POLLIN)
        next_tick = self._clock.monotonic()
        while self._machine.role is not Role.GONE:
            poller.poll(max(0.0, next_tick - self._clock.monotonic()) * 1000)
            self._check_link()
            self._receive()
            self._run_calls()
            if self._status_socket.answer(self.status.as_json):
                self._hand_over_until = self._clock.monotonic() + _SUCCESSOR_SECONDS
                self._hand_over()
            now = self._clock.monotonic()
            if now >= next_tick:
                next_tick = now + TICK
                self._tick(now)

    def _tick(self, now: float) -> None:
        if self._conflicts.is_over(now):
            self._executor.execute(self._machine.address_free(now))
        elif self._conflicts.is_due(now):
            self._effects.probe_addresses()
        self._hand_over()
        self._executor.execute(self._machine.tick(self._clock.monotonic()))
        self._effects.announce_in_time(now)
        machine = self._machine
        is_over = self._drain_until is not None and now >= self._drain_until
        if machine.role is Role.LEAVING and (is_over or not machine.is_needed(now)):
            self._executor.execute(machine.end(now))
        self._status.publish(machine, self._contacts, self._conflicts.conflict(now))

    def _check_link(self) -> None:
        if self._link.is_lost():
            self._executor.execute(self._machine.link_lost(self._clock.monotonic()))
            _log.warning("the interface has no carrier", interface=self.config.interface)

    # Input

    def _run_calls(self) -> None:
        try:
            self._wake_reader.recv(4096)
        except BlockingIOError:
            return
        while not self._calls.empty():
            work = self._calls.get()
            self._executor.execute(work(self._clock.monotonic()))

    def _hand_over(self) -> None:
        """Leave because another process of the pod ends; without a successor, go on until this one ends."""
        now = self._clock.monotonic()
        if now < self._hand_over_until and self._machine.has_successor(now):
            self._drain_until = now + DRAIN_SECONDS
            self._executor.execute(self._machine.leave(now))

    def _receive(self) -> None:
        for event in self._receiver.read():
            # The clock is read after the message was received: the hold-off begins then.
            now = self._clock.monotonic()
            if isinstance(event, Received):
                self._contacts.hear(event.message, event.channel, now)
                self._executor.execute(self._machine.message_received(event.message, now))
            elif event.address in self.config.gateways:
                self._gateway_answered(event.address, event.mac, now)
            else:
                self._owner_answered(event.address, event.mac, now)

    def _gateway_answered(self, gateway: IPAddress, mac: bytes, now: float) -> None:
        request = None if mac == self._effects.mac else self._effects.matching_request(now)
        if request is not None:
            self._effects.remember_gateway(gateway, mac)
            self._executor.execute(self._machine.gateway_answered(request, now))

    def _owner_answered(self, source: IPAddress, mac: bytes, now: float) -> None:
        if mac != self.config.shared_mac and not self._contacts.has_mac(mac):
            self._handle_conflict(source, mac, now)
        elif self._machine.role is not Role.ACTIVE:
            self._contacts.note_holder(mac, now)
            self._contacts.active_heard = now
            self._executor.execute(self._machine.address_answered(now))

    def _handle_conflict(self, source: IPAddress, owner: bytes, now: float) -> None:
        if self._machine.role is Role.ACTIVE:
            if self._conflicts.may_defend(now):
                _log.warning("another station claims our address", address=source, owner=owner.hex(":"))
                self._effects.announce()  # RFC 5227 2.4 (c)
            return
        if self._conflicts.owner_found(owner.hex(":"), now):
            _log.warning(
                "address is in use; waiting for its owner to go", address=source, owner=owner.hex(":")
            )
        self._executor.execute(self._machine.address_answered(now))
        if self._conflicts.is_timed_out(now) and self._machine.role is Role.LISTENING:
            raise RefusedError(
                f"{source} is in use by the station {owner.hex(':')} on {self.config.interface}"
                f" (waited {self.config.claim_timeout:g} s)",
                "stop its owner, or give this router another EGRESS_SOURCE",
            )
