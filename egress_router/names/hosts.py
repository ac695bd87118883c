"""hosts(5) as data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.grammar.address import AddressError, parse_address, parse_name
from egress_router.names.answer import MAX_ADDRESSES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from egress_router.grammar.address import IPAddress


def parse_hosts(text: str) -> Mapping[str, tuple[IPAddress, ...]]:
    """Return the addresses of every name, from all lines that give it one, in their order.

    Lines and names that are not valid are ignored, as the C library does.
    """
    found: dict[str, dict[IPAddress, None]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) < 2:
            continue
        try:
            address = parse_address(words[0])
        except AddressError:
            continue
        for word in words[1:]:
            try:
                found.setdefault(parse_name(word), {})[address] = None
            except AddressError:
                continue
    return {name: tuple(addresses)[:MAX_ADDRESSES] for name, addresses in found.items()}
