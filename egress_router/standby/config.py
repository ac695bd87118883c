"""Where a router of a group stands. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """Its interface, what the group shares, and its own pod."""

    interface: str
    index: int
    sources: tuple[IPAddress, ...]
    gateways: tuple[IPAddress, ...]
    shared_mac: bytes | None  # None: every router keeps its own
    own_mac: bytes
    pod_address: IPAddress | None
    port: int
    mark: int
    claim_timeout: float
