"""Targets as the data plane reads them: an array of `struct address` of plane.h."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from egress_router.grammar.address import IPAddress, Target

_ADDRESS: Final = struct.Struct("=16s2s2x16s4xB3x")
_MAPPED: Final = bytes(10) + b"\xff\xff"  # RFC 4291 2.5.5.2: an IPv4 address among those of IPv6
_NO_SOURCE: Final = bytes(16)


def packed(
    targets: Sequence[Target], sources: Sequence[IPAddress | None], near: Collection[Target] = ()
) -> bytes:
    """Return targets with their source addresses, which are as in `DataPlane.aim`."""
    if not sources:
        return b"".join(_address(each, None, is_near=each in near) for each in targets)
    return b"".join(
        _address(target, source, is_near=target in near)
        for target, source in zip(targets, sources, strict=True)
    )


def _address(target: Target, source: IPAddress | None, *, is_near: bool) -> bytes:
    address, port = target
    leaving = _NO_SOURCE if source is None else _bytes_of(source)
    return _ADDRESS.pack(_bytes_of(address), port.to_bytes(2, "big"), leaving, is_near)


def _bytes_of(address: IPAddress) -> bytes:
    return address.packed if address.version == 6 else _MAPPED + address.packed
