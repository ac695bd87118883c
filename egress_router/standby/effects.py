"""Does what the state machine decides: fence, hardware address, frames and datagrams. A thin shell."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from typing import TYPE_CHECKING

from egress_router.kernel.link_address import HardwareAddressInUseError, set_mac, set_neighbour
from egress_router.standby.transport import codec
from egress_router.standby.transport.codec import Contact

if TYPE_CHECKING:
    from egress_router.clock import Clock
    from egress_router.grammar.address import IPAddress
    from egress_router.kernel.fence import Fence
    from egress_router.standby.network import RouterConfig
    from egress_router.standby.protocol.commands import Message
    from egress_router.standby.transport.contacts import ContactTable
    from egress_router.standby.transport.link_socket import LinkSocket
    from egress_router.standby.transport.pod_network import PodNetwork

# Seconds after a take-over; the first announcements may be lost while a switch learns.
_ANNOUNCE_AGAIN = (0.05, 0.2, 1.0, 2.0)
_ANNOUNCE_INTERVAL = 60.0
_KEEP_MAC = 0.2  # seconds after the gate was closed: to change it would delay a hand-over
_ANSWER_WINDOW = 0.2  # seconds; a later answer of the gateway does not belong to the request


class Effects:
    """Acts on the kernel, and sends on both channels to the other routers."""

    def __init__(
        self,
        config: RouterConfig,
        fence: Fence,
        link: LinkSocket,
        pod: PodNetwork,
        contacts: ContactTable,
        clock: Clock,
    ) -> None:
        self._config = config
        self._fence = fence
        self._link_socket = link
        self._pod = pod
        self._contacts = contacts
        self._clock = clock
        self._group = codec.group_of(config.sources)
        self._probes: deque[tuple[int, float]] = deque()
        self._announcements: list[float] = []
        self._gateway_macs: dict[IPAddress, bytes] = {}
        self._is_prepared = False
        self._closed = -math.inf
        self.mac = config.own_mac

    # The gate

    def start_timer(self, request: int, seconds: float) -> None:
        """Start the kernel's timer of a request."""
        self._fence.arm(request, seconds)

    def extend_lease(self, request: int) -> None:
        """Keep the gate open while the timer of a request runs."""
        self._fence.extend(request)

    def restore_fence(self) -> None:
        """Set the fence up again, closed."""
        self._fence.restore()

    def prepare(self) -> None:
        """Do the slow steps of a take-over now, so that only the gate has to be opened."""
        # Another pod on this node may still have the hardware address: then `open_gate` tries again.
        with contextlib.suppress(HardwareAddressInUseError):
            self._use_mac(self._config.shared_mac or self._config.own_mac)
            self._set_gateway_neighbours()
            self._is_prepared = True

    def open_gate(self, request: int) -> None:
        """Take the hardware address, open the gate, and announce."""
        self._use_mac(self._config.shared_mac or self._config.own_mac)
        self._fence.approve(request)
        self.announce()
        if not self._is_prepared:
            self._set_gateway_neighbours()
        now = self._clock.monotonic()
        self._announcements = [now + each for each in _ANNOUNCE_AGAIN]

    def close_gate(self) -> None:
        """Close the gate."""
        self._fence.close()
        self._closed = self._clock.monotonic()
        self._announcements = []

    def restore_mac(self, now: float) -> None:
        """Use the hardware address that only this router has, but not during a hand-over."""
        self._is_prepared = False
        if now >= self._closed + _KEEP_MAC:
            self._use_mac(self._config.own_mac)

    def _use_mac(self, mac: bytes) -> None:
        """Change the hardware address of the interface, if it has another one.

        The kernel waits until no processor uses the old one (an RCU grace period): 10 to 100 ms.
        """
        if mac != self.mac:
            set_mac(self._config.index, mac)
            self.mac = mac

    # The gateways

    def remember_gateway(self, address: IPAddress, mac: bytes) -> None:
        """Remember the hardware address of a gateway."""
        self._gateway_macs[address] = mac

    def _set_gateway_neighbours(self) -> None:
        """Tell the kernel the hardware addresses of the gateways.

        Its own requests failed while the gate was closed, and it would ask again only after a second. It also
        forgets them when the hardware address of the interface changes.
        """
        for address, mac in self._gateway_macs.items():
            with contextlib.suppress(OSError):
                set_neighbour(self._config.index, address, mac)

    # Announcements

    def announce(self) -> None:
        """Tell every station that the addresses are here."""
        self._link_socket.announce(self._config.sources, self.mac)

    def announce_in_time(self, now: float) -> None:
        """Announce again, if it is time to."""
        while self._announcements and now >= self._announcements[0]:
            self._announcements.pop(0)
            self.announce()
            if not self._announcements:
                self._announcements = [now + _ANNOUNCE_INTERVAL]

    # Messages and requests

    def send(self, message: Message) -> None:
        """Send a message on all channels."""
        config = self._config
        key = self._contacts.own_key
        own = Contact(key, self.mac, config.pod_address, config.port)
        data = codec.encode(self._group, message, own)
        self._link_socket.send(data)
        for contact in self._contacts.all():
            if contact.address is not None:
                self._pod.send(codec.seal(data, key, contact.key), contact.address, contact.port)

    def probe_addresses(self) -> None:
        """Ask the wire who has the source addresses."""
        for source in self._config.sources:
            self._link_socket.ask(source, self.mac, None)

    def probe(self, request: int, *, is_active: bool) -> None:
        """Ask the gateway who it is; only an active router may ask as the owner of an address."""
        self._probes.append((request, self._clock.monotonic()))
        for gateway in self._config.gateways:
            source = next((each for each in self._config.sources if each.version == gateway.version), None)
            self._link_socket.ask(gateway, self.mac, source if is_active else None)

    def matching_request(self, now: float) -> int | None:
        """Return the oldest request that an answer of the gateway can belong to: later ones may have none."""
        while self._probes and self._probes[0][1] < now - _ANSWER_WINDOW:
            self._probes.popleft()
        return self._probes.popleft()[0] if self._probes else None
