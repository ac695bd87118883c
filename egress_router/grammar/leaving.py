"""`from ADDRESS` and `from *` at the end of a line: the source address of its connections."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from egress_router.grammar.address import AddressError, IPAddress, parse_address

if TYPE_CHECKING:
    from collections.abc import Collection


class Spread(enum.Enum):
    """Connections are spread over several addresses."""

    ALL = "*"


# None: the first address that the router holds.
Leaving = IPAddress | Spread | None
_WORD = "from"


def split_leaving(text: str) -> tuple[list[str], Leaving]:
    """Return the words of a line without `from ADDRESS` at its end, and the address.

    Raises:
        ValueError: what follows `from` is not one address and not `*`.
    """
    words = text.split()
    if _WORD not in text.lower():
        return words, None  # nearly every line ends here, and there may be 30,000
    if len(words) >= 2 and words[-2].lower() == _WORD:
        if words[-1] == Spread.ALL.value:
            return words[:-2], Spread.ALL
        try:
            return words[:-2], parse_address(words[-1])
        except AddressError as error:
            raise ValueError(f"`from`: {error}; expected an address of EGRESS_SOURCE, or `*`") from None
    if any(word.lower() == _WORD for word in words):
        raise ValueError("`from` ends a line, with one address of EGRESS_SOURCE or `*` behind it")
    return words, None


def misplaced(
    leaving: Leaving, sources: Collection[IPAddress] | None, target: IPAddress | None
) -> str | None:
    """Say why connections cannot leave with this address; None if they can.

    `sources` are the addresses of EGRESS_SOURCE; None: they are not known. `target` is an address to which
    the connections go; None: no address is known.
    """
    if leaving is None:
        return None
    if sources is not None and not sources:
        return "`from` needs EGRESS_SOURCE in the environment, and it is not set"
    if isinstance(leaving, Spread):
        return None
    if sources is not None and leaving not in sources:
        return f"`from {leaving}`: it is not one of EGRESS_SOURCE ({', '.join(map(str, sources))})"
    if target is not None and target.version != leaving.version:
        return f"`from {leaving}`: it is IPv{leaving.version}, and {target} is IPv{target.version}"
    return None


def printed_leaving(leaving: Leaving) -> str:
    """Write it as the end of a line, with the space before it."""
    if leaving is None:
        return ""
    return f" {_WORD} {leaving.value if isinstance(leaving, Spread) else leaving}"
