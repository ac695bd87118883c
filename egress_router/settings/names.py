"""Settings of name resolution, for both proxies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.grammar.address import parse_address
from egress_router.grammar.locality import Locality, locality
from egress_router.settings.variables import Variable, seconds, whole

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress
    from egress_router.settings.variables import Environment

_NOWHERE = {Locality.UNSPECIFIED, Locality.MULTICAST, Locality.BROADCAST}
_MAX_SERVERS = 3  # as resolv.conf(5): each one that is silent costs its time-out


def _servers(text: str) -> tuple[IPAddress, ...]:
    servers = tuple(dict.fromkeys(parse_address(part.strip()) for part in text.split(",") if part.strip()))
    if len(servers) > _MAX_SERVERS:
        raise ValueError(f"{len(servers)} name servers (at most {_MAX_SERVERS})")
    for server in servers:
        if locality(server) in _NOWHERE or (server.version == 6 and server.is_link_local):
            raise ValueError(f"'{server}' is not the address of a name server ({locality(server).value})")
    return servers


TTL_FLOOR = Variable("EGRESS_DNS_TTL_FLOOR", "an answer is kept at least so many seconds", "1", seconds)
TTL_CEILING = Variable("EGRESS_DNS_TTL_CEILING", "an answer is kept at most so many seconds", "3600", seconds)
STALE_SECONDS = Variable(
    "EGRESS_DNS_STALE_SECONDS",
    "how long the last good answer serves while the name servers fail",
    "86400",
    seconds,
)
# Each takes two sockets; clients that invent names must not use up the descriptors.
LOOKUPS = Variable(
    "EGRESS_DNS_LOOKUPS", "names that a worker looks up at the same time", "1000", whole(1, 100_000)
)

LOOKUPS_PER_CLIENT = Variable(
    "EGRESS_DNS_LOOKUPS_PER_CLIENT",
    "names that a worker looks up at the same time for one client address",
    "100",
    whole(1, 100_000),
)
SERVERS = Variable(
    "EGRESS_DNS_SERVERS",
    "name servers that are asked instead of those of /etc/resolv.conf, at most three, comma-separated",
    "",
    _servers,
)

NAMES_VARIABLES = (SERVERS, TTL_FLOOR, TTL_CEILING, STALE_SECONDS, LOOKUPS, LOOKUPS_PER_CLIENT)


@dataclass(frozen=True, slots=True)
class NamesSettings:
    """Bounds of what the resolver keeps, in seconds, and of what it does at one time.

    `servers` are asked instead of resolv.conf's. The last two are no variables: how long a look-up waits for
    the second address family once the first has addresses, and how long somebody waits for fresh addresses
    while there are old ones (RFC 8767 section 5).
    """

    ttl_floor: float = 1.0
    ttl_ceiling: float = 3600.0
    stale_seconds: float = 86400.0
    max_lookups: int = 1000
    max_lookups_per_client: int = 100
    servers: tuple[IPAddress, ...] = ()
    other_family_seconds: float = 1.0
    stale_wait_seconds: float = 1.8


def read_names(environment: Environment) -> NamesSettings | None:
    """Read the settings of name resolution; None where one of them is wrong, which `finish` reports."""
    floor = environment.read(TTL_FLOOR)
    ceiling = environment.read(TTL_CEILING)
    stale = environment.read(STALE_SECONDS)
    lookups = environment.read(LOOKUPS)
    per_client = environment.read(LOOKUPS_PER_CLIENT)
    servers = environment.read(SERVERS)
    if floor is None or ceiling is None or stale is None or lookups is None or per_client is None:
        return None
    if servers is None:
        return None
    return NamesSettings(floor, max(floor, ceiling), stale, lookups, per_client, servers)
