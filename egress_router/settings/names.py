"""Settings of name resolution, for both proxies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.settings.variables import Variable, seconds, whole

if TYPE_CHECKING:
    from egress_router.settings.variables import Environment

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

NAMES_VARIABLES = (TTL_FLOOR, TTL_CEILING, STALE_SECONDS, LOOKUPS)


@dataclass(frozen=True, slots=True)
class NamesSettings:
    """Bounds of what the resolver keeps, in seconds, and of what it does at one time."""

    ttl_floor: float = 1.0
    ttl_ceiling: float = 3600.0
    stale_seconds: float = 86400.0
    max_lookups: int = 1000


def read_names(environment: Environment) -> NamesSettings | None:
    """Read the settings of name resolution; None where one of them is wrong, which `finish` reports."""
    floor = environment.read(TTL_FLOOR)
    ceiling = environment.read(TTL_CEILING)
    stale = environment.read(STALE_SECONDS)
    lookups = environment.read(LOOKUPS)
    if floor is None or ceiling is None or stale is None or lookups is None:
        return None
    return NamesSettings(floor, max(floor, ceiling), stale, lookups)
