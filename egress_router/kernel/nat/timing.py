"""How long connections take to be accepted: for some, the kernel notes when they began and were accepted.

No process sees the packets, and the kernel does not subtract: the reader of both times does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ASKED, ACCEPTED = "asked", "accepted_at"
# Enough to measure how long it takes; a higher rate would cost each connection something.
_RATE = "limit rate 50/second burst 50 packets"
_MOST, _LIFETIME = 4096, "30s"
# Conntrack's number of the connection, and the local port.
_KEY = "ct id . ct original proto-dst"


def name(what: str, version: int) -> str:
    """Return the name of the map that holds times by connection and local port."""
    return f"{what}{version}"


def declarations(version: int) -> Iterator[str]:
    """Yield the maps of a family."""
    kind = "typeof ct id . tcp dport : meta time"
    for what in (ASKED, ACCEPTED):
        held = f"size {_MOST}; flags dynamic,timeout; timeout {_LIFETIME};"
        yield f"map {name(what, version)} {{ {kind}; {held} }}"


def asked(version: int) -> str:
    """Return the statement for the first packet of a TCP connection."""
    return f"{_RATE} add @{name(ASKED, version)} {{ {_KEY} : meta time }}"


def accepted(version: int) -> str:
    """Return the statement for the packet that accepts it; it does nothing if the first was not noted."""
    return f"{_KEY} @{name(ASKED, version)} add @{name(ACCEPTED, version)} {{ {_KEY} : meta time }}"
