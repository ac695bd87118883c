"""The shell of the pair protocol: one thread that waits, asks the state machine, and does what it says.

It shares its process with rules, names and pages, and is a thread of its own so that none of them can hold a
heartbeat up for long. Whatever stops it, the kernel closes the gate.
"""

from __future__ import annotations

import asyncio
import fcntl
import queue
import secrets
import select
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.clock import SYSTEM, Clock
from egress_router.errors import RefusedError
from egress_router.kernel.fence import FenceError
from egress_router.kernel.link_address import HardwareAddressInUseError, set_mac
from egress_router.service.tasks import in_daemon_thread
from egress_router.standby import codec, frames
from egress_router.standby.actions import Approve, Arm, Ask, Close, Open, Probe, Seek, Send
from egress_router.standby.codec import Contact
from egress_router.standby.door import Door
from egress_router.standby.machine import Machine
from egress_router.standby.pod_network import PodNetwork
from egress_router.standby.role import Role
from egress_router.standby.standing import PeerSeen, Standing
from egress_router.standby.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.kernel.fence import Fence
    from egress_router.standby.actions import Action, Answer, Message

DRAIN_SECONDS = 5.0  # how long a router that has handed over stays for its heir's sake, at most
_TICK = 0.025  # seconds
_ANNOUNCE_AGAIN = (
    0.05,
    0.2,
    1.0,
    2.0,
)  # seconds after a take-over; the first may be lost while a switch learns
_ANNOUNCE_INTERVAL = 60.0
_ANSWER_WINDOW = 0.2  # seconds in which an answer of the gateway can belong to a question
_PROBES, _PROBE_INTERVAL, _PROBE_AGAIN = 3, 0.3, 1.0
_HEARD_LATELY = 1.0
_SIOCGIFFLAGS, _IFF_RUNNING = 0x8913, 0x40
_log = log.get("standby")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a router stands: its interface, what the group shares, and its own pod."""

    interface: str
    index: int
    sources: tuple[IPAddress, ...]
    gateways: tuple[IPAddress, ...]
    shared_mac: bytes | None  # None: every router keeps its own
    own_mac: bytes
    pod_address: IPAddress | None
    port: int
    mark: int
    claim_timeout: float


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
        self.place = place
        self.number = number
        self.failure: RefusedError | None = None
        self.standing = Standing(sources=tuple(map(str, place.sources)), since=clock.time())
        self._fence = fence
        self._trouble: str | None = None
        self._ask = ask
        self._changed = changed
        self._clock = clock
        self._machine = Machine(self.number, clock.monotonic(), has_witness=ask is not None)
        self._key = secrets.token_bytes(16)
        self._contacts: dict[int, Contact] = {}
        self._heard_by: dict[int, dict[str, float]] = {}
        self._probes: deque[tuple[int, float]] = deque()
        self._announcements: list[float] = []
        self._mac = place.own_mac
        self._group = codec.group_of(place.sources)
        self._mail: queue.SimpleQueue[Callable[[float], list[Action]]] = queue.SimpleQueue()
        self._bell, self._ring = socket.socketpair()
        self._bell.setblocking(False)
        self._probing = _Probing(clock.monotonic(), place.claim_timeout)
        self._drain_until: float | None = None
        self._holder: tuple[bytes, float] | None = None
        self._active_heard = clock.monotonic()
        self._had_carrier = True
        self._thread = threading.Thread(target=self._run, name="standby", daemon=True)
        self.ended = threading.Event()

    # From other threads

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def answer(self, answer: Answer) -> None:
        """Pass an answer of the witness on."""
        self._post(lambda now: self._machine.witnessed(answer, now))

    def witness_trouble(self, text: str | None) -> None:
        """Hear what is wrong with the witness."""
        self._trouble = text

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
        await in_daemon_thread(self._await_end)
        if self.failure is not None:
            raise self.failure
        await asyncio.Event().wait()  # it was asked to leave; the others have the word

    def _await_end(self) -> None:
        self.ended.wait()

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
            self._changed(self.standing)

    def _serve(self) -> None:
        place = self.place
        set_mac(place.index, place.own_mac)
        with (
            Door() as self._door,
            PodNetwork(place.pod_address, place.port, place.mark) as self._pod,
            Wire(place.interface, place.index, place.own_mac) as self._wire,
        ):
            self._loop()

    def _loop(self) -> None:
        poller = select.poll()
        for descriptor in (self._wire.fileno(), self._pod.fileno(), self._bell.fileno(), self._door.fileno()):
            if descriptor is not None:
                poller.register(descriptor, select.POLLIN)
        next_tick = self._clock.monotonic()
        while self._machine.role is not Role.GONE:
            poller.poll(max(0.0, next_tick - self._clock.monotonic()) * 1000)
            self._read_wire()
            self._read_pod()
            self._read_mail()
            if self._door.answer(self.standing.as_json):
                self._hand_over()
            now = self._clock.monotonic()
            if now >= next_tick:
                next_tick = now + _TICK
                self._tick(now)

    def _tick(self, now: float) -> None:
        self._look_at_carrier(now)
        if self._probing.is_over(now):
            self._do(self._machine.free(now))
        elif self._probing.is_due(now):
            for source in self.place.sources:
                self._wire.ask(source, self._mac, None)
        self._do(self._machine.tick(self._clock.monotonic()))
        while self._announcements and now >= self._announcements[0]:
            self._announcements.pop(0)
            self._announce()
            if not self._announcements:
                self._announcements = [now + _ANNOUNCE_INTERVAL]
        machine = self._machine
        is_over = self._drain_until is not None and now >= self._drain_until
        if machine.role is Role.LEAVING and (is_over or not machine.is_needed(now)):
            self._do(machine.end(now))
        self._publish()

    def _look_at_carrier(self, now: float) -> None:
        request = struct.pack("16sH14x", self.place.interface.encode(), 0)
        try:
            answer = fcntl.ioctl(self._bell_for_ioctl(), _SIOCGIFFLAGS, request)
        except OSError:
            raise RefusedError(
                f"{self.place.interface} is gone", "see who deleted it, and start the router again"
            ) from None
        has_carrier = bool(struct.unpack_from("H", answer, 16)[0] & _IFF_RUNNING)
        if self._had_carrier and not has_carrier:
            _log.warning("the interface has no carrier", interface=self.place.interface)
            self._do(self._machine.carrier_lost(now))
        self._had_carrier = has_carrier

    def _bell_for_ioctl(self) -> int:
        return self._wire.fileno()

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
        if self._machine.has_heir(now):
            self._drain_until = now + DRAIN_SECONDS
            self._do(self._machine.leave(now))

    def _read_pod(self) -> None:
        for data, address in self._pod.receive():
            for number, contact in list(self._contacts.items()):
                if contact.address != address:
                    continue
                bare = codec.opened(data, self._key, contact.key)
                heard = None if bare is None else codec.decode(self._group, bare)
                if heard is not None and heard.message.sender == number:
                    self._heard(heard.message, "pod network")

    def _read_wire(self) -> None:
        for frame in self._wire.receive():
            if frame[12:14] == codec.ETHERTYPE.to_bytes(2, "big"):
                heard = codec.decode(self._group, frame[14:])
                if heard is not None and heard.message.sender != self.number:
                    self._note_contact(heard.message.sender, heard.contact)
                    self._heard(heard.message, "wire")
            else:
                self._read_answer(frame)

    def _note_contact(self, number: int, contact: Contact) -> None:
        if number not in self._contacts and len(self._contacts) >= 8:
            del self._contacts[next(iter(self._contacts))]
        self._contacts[number] = contact

    def _heard(self, message: Message, way: str) -> None:
        # The clock is read after the message was received: a promise counts from then on.
        now = self._clock.monotonic()
        self._heard_by.setdefault(message.sender, {})[way] = now
        if message.role is Role.ACTIVE:
            self._active_heard = now
        if message.role is Role.GONE:
            self._heard_by.pop(message.sender, None)
        self._do(self._machine.heard(message, now))

    def _read_answer(self, frame: bytes) -> None:
        now = self._clock.monotonic()
        for gateway in self.place.gateways:
            if frames.owner(frame, gateway) not in {None, self._mac, self.place.own_mac}:
                self._gateway_answered(now)
        for source in self.place.sources:
            owner = frames.owner(frame, source)
            if owner is None or owner == self.place.own_mac:
                continue
            if owner == self.place.shared_mac or self._is_peer(owner):
                if self._machine.role is not Role.ACTIVE:
                    self._holder = (owner, now)
                    self._active_heard = now
                    self._do(self._machine.answered(now))
            else:
                self._meet_rival(source, owner, now)

    def _is_peer(self, mac: bytes) -> bool:
        return any(contact.mac == mac for contact in self._contacts.values())

    def _gateway_answered(self, now: float) -> None:
        """Count an answer for the oldest question that it can belong to: a later one may not be answered."""
        while self._probes and self._probes[0][1] < now - _ANSWER_WINDOW:
            self._probes.popleft()
        if self._probes:
            slot, _ = self._probes.popleft()
            self._do(self._machine.gateway(slot, now))

    def _meet_rival(self, source: IPAddress, owner: bytes, now: float) -> None:
        if self._machine.role is Role.ACTIVE:
            if self._probing.may_defend(now):
                _log.warning("another station claims our address", address=source, owner=owner.hex(":"))
                self._announce()  # RFC 5227 2.4 (c)
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
            if self._machine.role is not Role.ACTIVE:
                # Not before the last message of a hand-over was sent: it takes milliseconds.
                self._use_mac(self.place.own_mac)
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
            self._send(action.message)
        elif isinstance(action, Approve):
            self._fence.approve(action.slot)
        elif isinstance(action, Probe):
            self._probe(action.slot)
        elif isinstance(action, Seek):
            for source in self.place.sources:
                self._wire.ask(source, self._mac, None)
        elif isinstance(action, Open):
            self._open(action.slot)
        elif isinstance(action, Close):
            self._close()
        elif self._ask is not None:
            self._ask(action)

    def _send(self, message: Message) -> None:
        place = self.place
        data = codec.encode(
            self._group, message, Contact(self._key, self._mac, place.pod_address, place.port)
        )
        self._wire.send(data)
        for contact in self._contacts.values():
            if contact.address is not None:
                self._pod.send(codec.seal(data, self._key, contact.key), contact.address, contact.port)

    def _probe(self, slot: int) -> None:
        is_active = self._machine.role is Role.ACTIVE
        self._probes.append((slot, self._clock.monotonic()))
        for gateway in self.place.gateways:
            source = next((each for each in self.place.sources if each.version == gateway.version), None)
            self._wire.ask(gateway, self._mac, source if is_active else None)

    def _open(self, slot: int) -> None:
        self._use_mac(self.place.shared_mac or self.place.own_mac)
        self._fence.approve(slot)
        self._announce()
        now = self._clock.monotonic()
        self._announcements = [now + each for each in _ANNOUNCE_AGAIN]
        took = now - self._active_heard
        self.standing = replace(self.standing, take_overs=self.standing.take_overs + 1, took=took)
        _log.info("took over", source=", ".join(self.standing.sources), after=f"{took:.3f}s")

    def _close(self) -> None:
        self._fence.close()
        self._announcements = []
        if self._machine.role is not Role.LEAVING:
            self.standing = replace(self.standing, losses=self.standing.losses + 1)
            _log.warning("stood down", source=", ".join(self.standing.sources))

    def _use_mac(self, mac: bytes) -> None:
        if mac != self._mac:
            set_mac(self.place.index, mac)
            self._mac = mac

    def _announce(self) -> None:
        self._wire.announce(self.place.sources, self._mac)

    # For people

    def _publish(self) -> None:
        """Put out a new standing where something changed."""
        now, machine = self._clock.monotonic(), self._machine
        active = machine.peers.active(now)
        if active is not None:
            contact = self._contacts.get(active.last.sender)
            self._holder = (b"" if contact is None else contact.mac, now)
        holder = self._holder
        is_held = holder is not None and now - holder[1] < _HEARD_LATELY and machine.role is not Role.ACTIVE
        standing = replace(
            self.standing,
            role=machine.role,
            holder=holder[0].hex(":") if is_held and holder is not None else None,
            peers=tuple(self._peers(now)),
            rival=self._probing.rival(now),
            witness=self._trouble,
            members=None
            if machine.witness is None or machine.witness.members is None
            else len(machine.witness.members),
        )
        if standing.role is not self.standing.role:
            standing = replace(standing, since=self._clock.time())
        if standing != self.standing:
            self.standing = standing
            self._changed(standing)

    def _peers(self, now: float) -> list[PeerSeen]:
        found = []
        for peer in self._machine.peers:
            contact = self._contacts.get(peer.last.sender)
            ways = self._heard_by.get(peer.last.sender, {})
            lately = tuple(sorted(way for way, at in ways.items() if now - at < _HEARD_LATELY))
            if contact is not None and lately:
                address = None if contact.address is None else str(contact.address)
                found.append(PeerSeen(contact.mac.hex(":"), address, peer.last.role, lately))
        return found


class _Probing:
    """RFC 5227's question before the first claim: does a station outside the group have the address?"""

    def __init__(self, now: float, timeout: float) -> None:
        self._deadline = now + timeout
        self._next = now + 0.1
        self._sent = 0
        self._is_over = False
        self._rival: tuple[str, float] | None = None
        self._defended = -1.0

    def is_due(self, now: float) -> bool:
        """Say whether to ask now, and count it."""
        if self._is_over or now < self._next:
            return False
        self._sent += 1
        self._next = now + _PROBE_INTERVAL
        return True

    def is_over(self, now: float) -> bool:
        """Say, once, that enough questions were not answered."""
        if self._is_over or self._sent < _PROBES or now < self._next:
            return False
        self._is_over = True
        return True

    def meet(self, owner: str, now: float) -> bool:
        """Note an owner; start again after a while. Whether it is a new one."""
        is_new = self._rival is None or self._rival[0] != owner
        self._rival = (owner, now)
        self._sent, self._next = 0, now + _PROBE_AGAIN
        return is_new

    def rival(self, now: float) -> str | None:
        """Return the owner that was met lately."""
        return self._rival[0] if self._rival is not None and now - self._rival[1] < 3 * _PROBE_AGAIN else None

    def is_hopeless(self, now: float) -> bool:
        """Say whether it was waited for long enough."""
        return now >= self._deadline

    def may_defend(self, now: float) -> bool:
        """Say whether to defend the address now: at most every 10 s (RFC 5227 1.1, DEFEND_INTERVAL)."""
        if now < self._defended + 10.0:
            return False
        self._defended = now
        return True
