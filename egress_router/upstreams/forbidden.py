"""Where a line must not lead: to this router itself, or by a name to what only this pod can reach.

The owner of a name decides what its addresses are. That must not give access to services on this pod's
loopback addresses, to a cloud's metadata service, or to this router's own administration.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol

from egress_router.grammar.locality import Locality, locality

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from egress_router.grammar.address import Host, IPAddress, Target


class ForbiddenReason(enum.Enum):
    """Why an address is left out; the value is used in counters and logs."""

    LOOP = "loop"
    LOCAL = "local_address"
    ADMINISTRATION = "administration_port"
    POLICY = "policy"

    @property
    def reason(self) -> str:
        """The reason in words, for people."""
        return _REASONS[self]


_REASONS = {
    ForbiddenReason.LOOP: "it is this router itself",
    ForbiddenReason.LOCAL: "the name has a loopback, link-local or metadata address that no line names",
    ForbiddenReason.POLICY: "the egress policy denies it",
    ForbiddenReason.ADMINISTRATION: "the name has this router's administration port that no line names",
}
_LOCAL = {
    Locality.LOOPBACK,
    Locality.LINK_LOCAL,
    Locality.METADATA,
    Locality.UNSPECIFIED,
    Locality.MULTICAST,
    Locality.BROADCAST,
}


class ForbiddenCheck(Protocol):
    """The signature of `forbidden_reason`."""

    def __call__(
        self,
        host: Host,
        target: Target,
        /,
        *,
        named: AbstractSet[IPAddress],
        ports: AbstractSet[int],
        admin_port: int,
        is_own: Callable[[IPAddress], bool],
    ) -> ForbiddenReason | None:
        """Return why connections must not go there."""


def forbidden_reason(
    host: Host,
    target: Target,
    *,
    named: AbstractSet[IPAddress],
    ports: AbstractSet[int],
    admin_port: int,
    is_own: Callable[[IPAddress], bool],
) -> ForbiddenReason | None:
    """Return why connections to `host` must not go to `target`; None: they may.

    `named` are the addresses that lines name themselves: a user allows them in this way. `ports` are those on
    which this router listens for lines: there, each connection would cause another one, without end.
    """
    address, port = target
    if port in ports and is_own(address):
        return ForbiddenReason.LOOP
    if not isinstance(host, str) or address in named:
        return None
    if locality(address) in _LOCAL:
        return ForbiddenReason.LOCAL
    if port == admin_port and is_own(address):
        return ForbiddenReason.ADMINISTRATION
    return None
