"""What the state machine decides, done: fence, hardware address, frames and datagrams. A thin shell."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from egress_router.kernel.link_address import set_mac
from egress_router.standby import codec
from egress_router.standby.codec import Contact

if TYPE_CHECKING:
    from egress_router.clock import Clock
    from egress_router.kernel.fence import Fence
    from egress_router.standby.acquaintances import Acquaintances
    from egress_router.standby.actions import Message
    from egress_router.standby.place import Place
    from egress_router.standby.pod_network import PodNetwork
    from egress_router.standby.wire import Wire

# Seconds after a take-over; the first may be lost while a switch learns.
_ANNOUNCE_AGAIN = (0.05, 0.2, 1.0, 2.0)
_ANNOUNCE_INTERVAL = 60.0
_ANSWER_WINDOW = 0.2  # seconds in which an answer of the gateway can belong to a question


class Hands:
    """Acts on the kernel and on both ways to the other routers."""

    def __init__(
        self, place: Place, fence: Fence, wire: Wire, pod: PodNetwork, known: Acquaintances, clock: Clock
    ) -> None:
        self._place = place
        self._fence = fence
        self._wire = wire
        self._pod = pod
        self._known = known
        self._clock = clock
        self._group = codec.group_of(place.sources)
        self._probes: deque[tuple[int, float]] = deque()
        self._announcements: list[float] = []
        self.mac = place.own_mac

    # The gate

    def open(self, slot: int, now: float) -> None:
        """Take the hardware address, open the gate, and announce."""
        self.use_mac(self._place.shared_mac or self._place.own_mac)
        self._fence.approve(slot)
        self.announce()
        self._announcements = [now + each for each in _ANNOUNCE_AGAIN]

    def close(self) -> None:
        """Close the gate."""
        self._fence.close()
        self._announcements = []

    def use_mac(self, mac: bytes) -> None:
        """Change the hardware address of the interface, where it is another one."""
        if mac != self.mac:
            set_mac(self._place.index, mac)
            self.mac = mac

    # Announcements

    def announce(self) -> None:
        """Tell every station that the addresses are here."""
        self._wire.announce(self._place.sources, self.mac)

    def announce_in_time(self, now: float) -> None:
        """Announce again, where it is time to."""
        while self._announcements and now >= self._announcements[0]:
            self._announcements.pop(0)
            self.announce()
            if not self._announcements:
                self._announcements = [now + _ANNOUNCE_INTERVAL]

    # Messages and questions

    def send(self, message: Message, key: bytes) -> None:
        """Send a message on all channels."""
        place = self._place
        data = codec.encode(self._group, message, Contact(key, self.mac, place.pod_address, place.port))
        self._wire.send(data)
        for contact in self._known.all():
            if contact.address is not None:
                self._pod.send(codec.seal(data, key, contact.key), contact.address, contact.port)

    def seek(self) -> None:
        """Ask the wire who has the source addresses."""
        for source in self._place.sources:
            self._wire.ask(source, self.mac, None)

    def probe(self, slot: int, *, is_active: bool) -> None:
        """Ask the gateway who it is; only an active router may ask as the owner of an address."""
        self._probes.append((slot, self._clock.monotonic()))
        for gateway in self._place.gateways:
            source = next((each for each in self._place.sources if each.version == gateway.version), None)
            self._wire.ask(gateway, self.mac, source if is_active else None)

    def question_answered(self, now: float) -> int | None:
        """Return the oldest question that an answer of the gateway can belong to: later ones may get none."""
        while self._probes and self._probes[0][1] < now - _ANSWER_WINDOW:
            self._probes.popleft()
        return self._probes.popleft()[0] if self._probes else None
