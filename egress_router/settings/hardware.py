"""EGRESS_MAC_ADDRESS: the hardware address of the macvlan interface."""

from __future__ import annotations

import enum
import hashlib
import re
from typing import TYPE_CHECKING

from egress_router.settings.variables import Variable

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress

_ADDRESS = re.compile(r"[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}")
_GROUP, _LOCAL = 0x01, 0x02  # IEEE 802 8.2: the two lowest bits of the first octet


class MacChoice(enum.Enum):
    """How the hardware address is chosen if none is given."""

    AUTO = "auto"
    RANDOM = "random"


def derived_mac(address: IPAddress) -> str:
    """Return the hardware address for a source address: the same at every start, on every node.

    It is locally administered, so no manufacturer uses it. Two sources have the same in 1 of 2**46 cases.
    """
    octets = bytearray(hashlib.sha256(b"egress-router " + address.packed).digest()[:6])
    octets[0] = (octets[0] | _LOCAL) & ~_GROUP
    return octets.hex(":")


def _mac_address(text: str) -> MacChoice | str:
    given = text.lower()
    if given in {choice.value for choice in MacChoice}:
        return MacChoice(given)
    if not _ADDRESS.fullmatch(given):
        raise ValueError("expected auto, random, or an address such as 02:00:5e:10:00:63")
    octets = bytes.fromhex(given.replace("-", "").replace(":", ""))
    if octets[0] & _GROUP:
        raise ValueError("is a group address; the lowest bit of the first octet of an interface's is 0")
    if not any(octets):
        raise ValueError("is the address of no station")
    return octets.hex(":")


MAC_ADDRESS: Variable[MacChoice | str] = Variable(
    "EGRESS_MAC_ADDRESS",
    "hardware address of the macvlan interface that setup creates; `auto`: derived from the first"
    " EGRESS_SOURCE, the same at every start and on every node; `random`; or an address, which an interface"
    " that is there gets, too",
    "auto",
    _mac_address,
)
