"""How long connections took to be accepted, from times that the kernel noted (`timing`)."""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING, NamedTuple

from egress_router.errors import RefusedError
from egress_router.kernel.nat import counters, timing

if TYPE_CHECKING:
    from collections.abc import Iterable

_WORD = 4  # bytes; each part of a concatenated key begins at a multiple of it
_NANOSECOND = 1e-9


class ConnectTime(NamedTuple):
    """After how many seconds a TCP connection to a local port was accepted."""

    version: int
    local_port: int
    seconds: float


class ConnectTimes:
    """Reads the noted times, and returns each connection once."""

    def __init__(self) -> None:
        self._returned: set[tuple[bytes, int]] = set()

    def read(self) -> list[ConnectTime]:
        """Return the connections that were accepted since the last call, if the kernel noted them.

        Raises:
            RefusedError: the kernel does not let this process read them.
        """
        found: list[ConnectTime] = []
        seen: set[tuple[bytes, int]] = set()
        for version in (4, 6):
            accepted = set(_times(timing.ACCEPTED, version))
            seen |= accepted
            if new := accepted - self._returned:
                found += _differences(version, new, dict(_times(timing.ASKED, version)))
        self._returned = seen
        return found


def _differences(
    version: int, accepted: Iterable[tuple[bytes, int]], asked: dict[bytes, int]
) -> list[ConnectTime]:
    """Leave out pairs without sense: conntrack may reuse a number, and a clock may be set back."""
    return [
        ConnectTime(version, _local_port(key), (time - asked[key]) * _NANOSECOND)
        for key, time in accepted
        if asked.get(key, time + 1) <= time
    ]


def _times(what: str, version: int) -> list[tuple[bytes, int]]:
    try:
        noted = list(counters.values(timing.name(what, version)))
    except OSError as error:
        if error.errno == errno.ENOENT:  # a family without a source has none
            return []
        raise RefusedError(f"cannot read the kernel's times ({error.strerror})", "grant NET_ADMIN") from None
    return [(key, int.from_bytes(value, sys.byteorder)) for key, value in noted]


def _local_port(key: bytes) -> int:
    return int.from_bytes(key[-_WORD : -_WORD + 2], "big")
