"""Rejected connections, read from what the kernel noted about them."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from egress_router.errors import RefusedError
from egress_router.kernel.nat import counters
from egress_router.kernel.nat.counting import PROTOCOLS
from egress_router.kernel.nat.noting import CASES, flows_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.address import IPAddress

_WORD = 4  # bytes; each part of a concatenated key begins at a multiple of it


@dataclass(frozen=True, slots=True)
class Rejection:
    """A connection that was rejected: by the egress policy (`is_denied`), or because its port led nowhere.

    `address` and `port` are where it would have gone; if its port led nowhere, they are this router's.
    """

    is_denied: bool
    protocol: str
    client: IPAddress
    client_port: int
    local_port: int
    address: IPAddress
    port: int


def read() -> frozenset[Rejection]:
    """Return what was rejected in the last half minute, if the kernel noted it.

    Raises:
        RefusedError: the kernel does not let this process read it.
    """
    found: set[Rejection] = set()
    for case in CASES:
        for version in (4, 6):
            for protocol in PROTOCOLS:
                try:
                    found.update(_of(case, protocol, version))
                except OSError as error:
                    if error.errno != errno.ENOENT:  # a family without a source has none
                        raise RefusedError(
                            f"cannot read what the kernel rejects ({error.strerror})", "grant NET_ADMIN"
                        ) from None
    return frozenset(found)


def _of(case: str, protocol: str, version: int) -> Iterator[Rejection]:
    size = 4 if version == 4 else 16
    for key in counters.keys(flows_name(case, protocol, version)):
        if len(key) == 2 * size + 3 * _WORD:
            client, rest = ip_address(key[:size]), key[size:]
            client_port, local_port = _port(rest), _port(rest[_WORD:])
            rest = rest[2 * _WORD :]
            address, port = ip_address(rest[:size]), _port(rest[size:])
            yield Rejection(case == "denied", protocol, client, client_port, local_port, address, port)


def _port(word: bytes) -> int:
    return int.from_bytes(word[:2], "big")
