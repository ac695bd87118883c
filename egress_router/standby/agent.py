"""The shell of the pair protocol: one thread that waits, asks the state machine, and does what it says.

It shares its process with rules, names and pages, and is a thread of its own so that none of them can hold a
heartbeat up for long. Whatever stops it, the kernel closes the gate.
"""

from __future__ import annotations

import asyncio
import math
import queue
import secrets
import select
import socket
import threading
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.clock import SYSTEM, Clock
from egress_router.errors import RefusedError
from egress_router.kernel.fence import FenceError
from egress_router.kernel.link_address import HardwareAddressInUseError, set_mac
from egress_router.service.tasks import in_daemon_thread
from egress_router.standby.conflict_detection import Probing
from egress_router.standby.effects import Hands
from egress_router.standby.link_monitor import Carrier
from egress_router.standby.protocol.commands import Approve, Arm, Ask, Close, Open, Prepare, Probe, Seek, Send
from egress_router.standby.protocol.role import Role
from egress_router.standby.protocol.state_machine import Machine
from egress_router.standby.protocol.steady_clock import SteadyClock
from egress_router.standby.status_publisher import Chronicle
from egress_router.standby.status_socket import Door
from egress_router.standby.transport.contacts import Acquaintances
from egress_router.standby.transport.pod_network import PodNetwork
from egress_router.standby.transport.receiver import Heard, Senses
from egress_router.standby.transport.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.kernel.fence import Fence
    from egress_router.standby.config import Place
    from egress_router.standby.protocol.commands import Action, Answer
    from egress_router.standby.status import Standing

DRAIN_SECONDS = 5.0  # how long a router that has handed over stays for its heir's sake, at most
_HEIR_SECONDS = 2.0
_TICK = 0.025  # seconds
_log = log.get("standby")


class Agent:
    """One router of the group; `start` it, and `leave` before the process ends."""

    def __init__(
        self,
        place: Place,
        fence: Fence,
        number: int,
        ask: Callable[[Ask], None] | None = None,
        changed: Callable[[Standing], None] = lambda _: None,
        clock: Clock = SYSTEM,
    ) -> None:
        """Prepare it; `fence` is up and closed.

        `ask` passes a question on to the witness, `changed` hears of every new standing.
        """
        clock = SteadyClock(clock)
        now = clock.monotonic()
        self.place = place
        self.number = number
        self.failure: RefusedError | None = None
        self.ended = threading.Event()
        self._fence = fence
        self._ask = ask
        self._chronicle = Chronicle(place.sources, changed, clock)
        self._clock = clock
        self._machine = Machine(self.number, now, has_witness=ask is not None)
        self._key = secrets.token_bytes(16)
        self._known = Acquaintances(now)
        self._mail: queue.SimpleQueue[Callable[[float], list[Action]]] = queue.SimpleQueue()
        self._bell, self._ring = socket.socketpair()
        self._bell.setblocking(False)
        self._probing = Probing(now, place.claim_timeout)
        self._drain_until: float | None = None
        self._hand_over_until = -math.inf  # how long a request to hand over waits to hear of an heir
        self._thread = threading.Thread(target=self._run, name="standby", daemon=True)

    # From other threads

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def standing(self) -> Standing:
        """Where this router stands."""
        return self._chronicle.standing

    def answer(self, answer: Answer) -> None:
        """Pass an answer of the witness on."""
        self._post(lambda now: self._machine.witnessed(answer, now))

    def witness_trouble(self, text: str | None) -> None:
        """Hear what is wrong with the witness."""
        self._chronicle.trouble = text

    def leave(self, drain: float) -> None:
        """Hand over, and end within `drain` seconds; `ended` is set then."""

        def begin(now: float) -> list[Action]:
            self._drain_until = now + drain
            return self._machine.leave(now)

        self._post(begin)

    async def until_failure(self) -> None:
        """Wait until the thread ends, for those who run an event loop.

        Raises:
            RefusedError: a third station has the address, or the kernel refused.
        """
        await in_daemon_thread(self.ended.wait)
        if self.failure is not None:
            raise self.failure
        await asyncio.Event().wait()  # it was asked to leave; the others have the word

    def _post(self, work: Callable[[float], list[Action]]) -> None:
        self._mail.put(work)
        self._ring.send(b"!")

    # The thread

    def _run(self) -> None:
        try:
            self._serve()
        except RefusedError as error:
            self.failure = error
        except Exception as error:  # noqa: BLE001 (the kernel closes the gate; the process says why and ends)
            _log.exception("the standby thread failed", error)
            self.failure = RefusedError("the standby thread failed", "see the log; this is a fault of ours")
        finally:
            self.ended.set()
            self._chronicle.end()

    def _serve(self) -> None:
        place = self.place
        set_mac(place.index, place.own_mac)
        with (
            Door() as self._door,
            PodNetwork(place.pod_address, place.port, place.mark) as self._pod,
            Wire(place.interface, place.index, place.own_mac) as self._wire,
            Carrier(place.interface) as self._carrier,
        ):
            self._hands = Hands(place, self._fence, self._wire, self._pod, self._known, self._clock)
            self._senses = Senses(place, self.number, self._key, self._wire, self._pod, self._known)
            self._loop()

    def _loop(self) -> None:
        poller = select.poll()
        for each in (self._wire, self._pod, self._bell, self._door, self._carrier):
            descriptor = each.fileno()
            if descriptor is not None:
                poller.register(descriptor, select.POLLIN)
        next_tick = self._clock.monotonic()
        while self._machine.role is not Role.GONE:
            poller.poll(max(0.0, next_tick - self._clock.monotonic()) * 1000)
            self._look_at_carrier()
            self._take_in()
            self._read_mail()
            if self._door.answer(self.standing.as_json):
                self._hand_over_until = self._clock.monotonic() + _HEIR_SECONDS
                self._hand_over()
            now = self._clock.monotonic()
            if now >= next_tick:
                next_tick = now + _TICK
                self._tick(now)

    def _tick(self, now: float) -> None:
        if self._probing.is_over(now):
            self._do(self._machine.free(now))
        elif self._probing.is_due(now):
            self._hands.seek()
        self._hand_over()
        self._do(self._machine.tick(self._clock.monotonic()))
        self._hands.announce_in_time(now)
        machine = self._machine
        is_over = self._drain_until is not None and now >= self._drain_until
        if machine.role is Role.LEAVING and (is_over or not machine.is_needed(now)):
            self._do(machine.end(now))
        self._chronicle.publish(machine, self._known, self._probing.rival(now))

    def _look_at_carrier(self) -> None:
        if self._carrier.is_lost():
            self._do(self._machine.carrier_lost(self._clock.monotonic()))
            _log.warning("the interface has no carrier", interface=self.place.interface)

    # What comes in

    def _read_mail(self) -> None:
        try:
            self._bell.recv(4096)
        except BlockingIOError:
            return
        while not self._mail.empty():
            work = self._mail.get()
            self._do(work(self._clock.monotonic()))

    def _hand_over(self) -> None:
        """Leave because another process of the pod ends; where nobody takes over, go on until our own end."""
        now = self._clock.monotonic()
        if now < self._hand_over_until and self._machine.has_heir(now):
            self._drain_until = now + DRAIN_SECONDS
            self._do(self._machine.leave(now))

    def _take_in(self) -> None:
        for event in self._senses.read():
            # The clock is read after the message was received: a promise counts from then on.
            now = self._clock.monotonic()
            if isinstance(event, Heard):
                self._known.hear(event.message, event.way, now)
                self._do(self._machine.heard(event.message, now))
            elif event.address in self.place.gateways:
                self._gateway_answered(event.address, event.mac, now)
            else:
                self._owner_answered(event.address, event.mac, now)

    def _gateway_answered(self, gateway: IPAddress, mac: bytes, now: float) -> None:
        slot = None if mac == self._hands.mac else self._hands.question_answered(now)
        if slot is not None:
            self._hands.note_gateway(gateway, mac)
            self._do(self._machine.gateway(slot, now))

    def _owner_answered(self, source: IPAddress, mac: bytes, now: float) -> None:
        if mac != self.place.shared_mac and not self._known.has_mac(mac):
            self._meet_rival(source, mac, now)
        elif self._machine.role is not Role.ACTIVE:
            self._known.held_by(mac, now)
            self._known.active_heard = now
            self._do(self._machine.answered(now))

    def _meet_rival(self, source: IPAddress, owner: bytes, now: float) -> None:
        if self._machine.role is Role.ACTIVE:
            if self._probing.may_defend(now):
                _log.warning("another station claims our address", address=source, owner=owner.hex(":"))
                self._hands.announce()  # RFC 5227 2.4 (c)
            return
        if self._probing.meet(owner.hex(":"), now):
            _log.warning(
                "address is in use; waiting for its owner to go", address=source, owner=owner.hex(":")
            )
        self._do(self._machine.answered(now))
        if self._probing.is_hopeless(now) and self._machine.role is Role.LISTENING:
            raise RefusedError(
                f"{source} is in use by the station {owner.hex(':')} on {self.place.interface}"
                f" (waited {self.place.claim_timeout:g} s)",
                "stop its owner, or give this router another EGRESS_SOURCE",
            )

    # What the state machine says

    def _do(self, actions: Sequence[Action]) -> None:
        try:
            for action in actions:
                self._act(action)
            now = self._clock.monotonic()
            if self._machine.role is not Role.ACTIVE and not self._machine.is_ready(now):
                self._hands.give_mac_back(now)
        except FenceError as error:
            _log.error("the fence is gone; putting it up again", error=error.strerror)
            self._fence.restore()
            self._recover()
        except HardwareAddressInUseError:
            _log.warning("another pod on this node has the hardware address; two of a group need two nodes")
            self._fence.close()
            self._recover()

    def _recover(self) -> None:
        for action in self._machine.fence_failed(self._clock.monotonic()):
            if isinstance(action, Close):
                self._close()

    def _act(self, action: Action) -> None:
        if isinstance(action, Arm):
            self._fence.arm(action.slot, action.seconds)
        elif isinstance(action, Send):
            self._hands.send(action.message, self._key)
        elif isinstance(action, Approve):
            self._fence.approve(action.slot)
        elif isinstance(action, Probe):
            self._hands.probe(action.slot, is_active=self._machine.role is Role.ACTIVE)
        elif isinstance(action, Seek):
            self._hands.seek()
        elif isinstance(action, Open):
            self._open(action.slot)
        elif isinstance(action, Close):
            self._close()
        elif isinstance(action, Prepare):
            self._hands.prepare()
        elif self._ask is not None:
            self._ask(action)

    def _open(self, slot: int) -> None:
        self._hands.open(slot)
        self._chronicle.took_over(self._clock.monotonic() - self._known.active_heard)

    def _close(self) -> None:
        self._hands.close()
        if self._machine.role is not Role.LEAVING:
            self._chronicle.stood_down()
