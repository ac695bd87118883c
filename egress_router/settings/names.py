"""Settings of name resolution, for both proxies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.grammar.address import parse_address
from egress_router.grammar.locality import Locality, locality
from egress_router.settings.table import setting
from egress_router.settings.variables import Variable, seconds, whole

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress

_NOWHERE = {Locality.UNSPECIFIED, Locality.MULTICAST, Locality.BROADCAST}
_MAX_SERVERS = 3  # as resolv.conf(5): each one that is silent costs its timeout


def _servers(text: str) -> tuple[IPAddress, ...]:
    servers = tuple(dict.fromkeys(parse_address(part.strip()) for part in text.split(",") if part.strip()))
    if len(servers) > _MAX_SERVERS:
        raise ValueError(f"{len(servers)} name servers (at most {_MAX_SERVERS})")
    for server in servers:
        if locality(server) in _NOWHERE or (server.version == 6 and server.is_link_local):
            raise ValueError(f"'{server}' is not the address of a name server ({locality(server).value})")
    return servers


SERVERS = Variable(
    "EGRESS_DNS_SERVERS",
    "name servers that are asked instead of those of /etc/resolv.conf, at most three, comma-separated",
    "",
    _servers,
)


@dataclass(frozen=True, slots=True)
class NamesSettings:
    """How long the resolver keeps answers, in seconds, and how much it does at a time.

    `servers` are asked instead of those in resolv.conf. The last two cannot be set: how long a look-up waits
    for the second address family once the first has addresses, and how long a request waits for fresh
    addresses while there are old ones (RFC 8767 section 5).
    """

    servers: tuple[IPAddress, ...] = setting(SERVERS)
    ttl_floor: float = setting(
        Variable("EGRESS_DNS_TTL_FLOOR", "an answer is kept at least so many seconds", "1", seconds)
    )
    ttl_ceiling: float = setting(
        Variable("EGRESS_DNS_TTL_CEILING", "an answer is kept at most so many seconds", "3600", seconds)
    )
    stale_seconds: float = setting(
        Variable(
            "EGRESS_DNS_STALE_SECONDS",
            "how long the last good answer serves while the name servers fail",
            "86400",
            seconds,
        )
    )
    # Each takes two sockets; clients that invent names must not use up the file descriptors.
    max_lookups: int = setting(
        Variable(
            "EGRESS_DNS_LOOKUPS", "names that a worker looks up at the same time", "1000", whole(1, 100_000)
        )
    )
    max_lookups_per_client: int = setting(
        Variable(
            "EGRESS_DNS_LOOKUPS_PER_CLIENT",
            "names that a worker looks up at the same time for one client address",
            "100",
            whole(1, 100_000),
        )
    )
    other_family_seconds: float = 1.0
    stale_wait_seconds: float = 1.8

    def __post_init__(self) -> None:
        """Raise a ceiling that is below the floor."""
        object.__setattr__(self, "ttl_ceiling", max(self.ttl_floor, self.ttl_ceiling))
