"""How the other routers are reached, and by which channels they are heard."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from egress_router.standby.protocol.role import Role
from egress_router.standby.status import PeerStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from egress_router.grammar.address import IPAddress
    from egress_router.standby.protocol.commands import Message
    from egress_router.standby.protocol.peers import Peer
    from egress_router.standby.transport.codec import Contact

_MAX_CONTACTS = 8  # a group has two routers, three during a rollout; more can only be hostile
_HEARD_LATELY = 1.0  # seconds


class ContactTable:
    """Contacts of other routers, by their number, and which of them holds the addresses."""

    def __init__(self, now: float) -> None:
        self.own_key = secrets.token_bytes(16)  # of this run, for datagrams; the others learn it on the wire
        self._contacts: dict[int, Contact] = {}
        self._heard_by: dict[int, dict[str, float]] = {}
        self._holder: tuple[bytes, float] | None = None
        self.active_heard = now  # when there was a sign of an active router

    def note(self, number: int, contact: Contact) -> None:
        """Remember how a router is reached."""
        if number not in self._contacts and len(self._contacts) >= _MAX_CONTACTS:
            del self._contacts[next(iter(self._contacts))]
        self._contacts[number] = contact

    def hear(self, message: Message, channel: str, now: float) -> None:
        """Record on which channel a message came."""
        self._heard_by.setdefault(message.sender, {})[channel] = now
        if message.role is Role.ACTIVE:
            self.active_heard = now
        if message.role is Role.GONE:
            self._heard_by.pop(message.sender, None)

    def note_holder(self, mac: bytes, now: float) -> None:
        """Record who holds the addresses."""
        self._holder = (mac, now)

    def holder(self, now: float) -> str | None:
        """Return the hardware address of the station that held the addresses lately; None without one."""
        holder = self._holder
        return holder[0].hex(":") if holder is not None and now - holder[1] < _HEARD_LATELY else None

    def all(self) -> Iterable[Contact]:
        """Return every contact."""
        return self._contacts.values()

    def at(self, address: IPAddress) -> list[tuple[int, Contact]]:
        """Return those whose pod has this address, with their numbers."""
        return [each for each in self._contacts.items() if each[1].address == address]

    def mac_of(self, number: int) -> bytes:
        """Return the hardware address of a router; empty if it is not known."""
        contact = self._contacts.get(number)
        return b"" if contact is None else contact.mac

    def has_mac(self, mac: bytes) -> bool:
        """Return whether a hardware address is that of another router."""
        return any(contact.mac == mac for contact in self._contacts.values())

    def seen(self, peers: Iterable[Peer], now: float) -> Iterator[PeerStatus]:
        """Yield the status of those of these routers that are heard, with their channels."""
        for peer in peers:
            contact = self._contacts.get(peer.last.sender)
            heard = self._heard_by.get(peer.last.sender, {})
            lately = tuple(sorted(channel for channel, at in heard.items() if now - at < _HEARD_LATELY))
            if contact is not None and lately:
                address = None if contact.address is None else str(contact.address)
                yield PeerStatus(contact.mac.hex(":"), address, peer.last.role, lately)
