"""What both channels receive, as values: messages of the group, and answers to requests. A thin shell."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from egress_router.standby.transport import address_resolution as frames
from egress_router.standby.transport import codec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.address import IPAddress
    from egress_router.standby.network import RouterConfig
    from egress_router.standby.protocol.commands import Message
    from egress_router.standby.transport.contacts import ContactTable
    from egress_router.standby.transport.link_socket import LinkSocket
    from egress_router.standby.transport.pod_network import PodNetwork


class Received(NamedTuple):
    """A message of another router, and the channel on which it came."""

    message: Message
    channel: str


class AddressOwner(NamedTuple):
    """A station that answers for one of the addresses."""

    address: IPAddress
    mac: bytes


class Receiver:
    """Reads both channels, and drops what is not from this group."""

    def __init__(
        self,
        config: RouterConfig,
        number: int,
        link: LinkSocket,
        pod: PodNetwork,
        contacts: ContactTable,
    ) -> None:
        self._config = config
        self._number = number
        self._link_socket = link
        self._pod = pod
        self._contacts = contacts
        self._group = codec.group_of(config.sources)

    def read(self) -> Iterator[Received | AddressOwner]:
        """Yield what was received, one by one: the time of each is the one at which it is handled."""
        for frame in self._link_socket.receive():
            if frame[12:14] == codec.ETHERTYPE.to_bytes(2, "big"):
                yield from self._message(frame[14:])
            else:
                yield from self._owners(frame)
        for data, address in self._pod.receive():
            yield from self._datagram(data, address)

    def _message(self, data: bytes) -> Iterator[Received]:
        heard = codec.decode(self._group, data)
        if heard is not None and heard.message.sender != self._number:
            self._contacts.note(heard.message.sender, heard.contact)
            yield Received(heard.message, "wire")

    def _datagram(self, data: bytes, address: IPAddress) -> Iterator[Received]:
        for number, contact in self._contacts.at(address):
            bare = codec.opened(data, self._contacts.own_key, contact.key)
            heard = None if bare is None else codec.decode(self._group, bare)
            if heard is not None and heard.message.sender == number:
                yield Received(heard.message, "pod network")

    def _owners(self, frame: bytes) -> Iterator[AddressOwner]:
        for address in (*self._config.gateways, *self._config.sources):
            owner = frames.owner(frame, address)
            if owner is not None and owner != self._config.own_mac:
                yield AddressOwner(address, owner)
