"""Messages as bytes: both ways, and whatever else may arrive."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.standby.protocol.commands import Message
from egress_router.standby.protocol.role import Role
from egress_router.standby.transport import codec
from egress_router.standby.transport.codec import Contact

GROUP = codec.group_of([ip_address("192.168.12.99")])
NUMBER = st.integers(1, 2**64 - 1)
MESSAGE = st.builds(
    Message,
    sender=NUMBER,
    seq=NUMBER,
    role=st.sampled_from(Role),
    able=st.booleans(),
    epoch=NUMBER,
    term=NUMBER,
    ack_to=NUMBER,
    ack_seq=NUMBER,
    hand_over_to=NUMBER,
    hand_over_seq=NUMBER,
    depends_on=NUMBER,
    successor=NUMBER,
    ready=st.booleans(),
)
CONTACT = st.builds(
    Contact,
    key=st.binary(min_size=16, max_size=16),
    mac=st.binary(min_size=6, max_size=6),
    address=st.none() | st.ip_addresses(),
    port=st.integers(1, 65535),
)


@given(MESSAGE, CONTACT)
def test_what_is_encoded_is_decoded(message: Message, contact: Contact) -> None:
    assert codec.decode(GROUP, codec.encode(GROUP, message, contact)) == (message, contact)


@given(MESSAGE, CONTACT)
def test_another_group_hears_nothing(message: Message, contact: Contact) -> None:
    other = codec.group_of([ip_address("192.168.12.100")])
    assert codec.decode(other, codec.encode(GROUP, message, contact)) is None


@given(st.binary(max_size=300), MESSAGE, CONTACT, st.integers(0, 200))
def test_whatever_arrives_raises_nothing(noise: bytes, message: Message, contact: Contact, cut: int) -> None:
    data = codec.encode(GROUP, message, contact)
    for each in (noise, data[:cut] + noise, noise + data):
        codec.decode(GROUP, each)


@given(MESSAGE, CONTACT)
def test_a_cut_message_is_none(message: Message, contact: Contact) -> None:
    data = codec.encode(GROUP, message, contact)
    assert all(codec.decode(GROUP, data[:length]) is None for length in range(len(data)))


def _sealed() -> tuple[bytes, bytes, bytes]:
    message = Message(1, 2, Role.ACTIVE, True, 3, 4, 5, 6, 7, 8, 9)
    mine, theirs = b"m" * 16, b"t" * 16
    data = codec.encode(GROUP, message, Contact(mine, b"\x02" * 6, None, 9798))
    return codec.seal(data, mine, theirs), mine, theirs


def test_a_datagram_is_opened_by_its_receiver_only() -> None:
    sealed, mine, theirs = _sealed()
    bare = codec.opened(sealed, theirs, mine)
    assert bare is not None
    heard = codec.decode(GROUP, bare)
    assert heard is not None
    assert heard.message.sender == 1
    assert heard.contact.key == bytes(16), "the key stays on the wire"
    assert codec.opened(sealed, b"x" * 16, mine) is None
    # Sent back to its sender, it does not count as a message of that one.
    assert codec.opened(sealed, mine, theirs) is None


@pytest.mark.parametrize("place", [0, 20, 100, -1])
def test_a_changed_datagram_is_none(place: int) -> None:
    sealed, mine, theirs = _sealed()
    changed = bytearray(sealed)
    changed[place] ^= 1
    assert codec.opened(bytes(changed), theirs, mine) is None
