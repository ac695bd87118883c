"""A resolver that says what a test wants, by the test's clock."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from egress_router.names.answer import Answer, Failure, ResolveError

if TYPE_CHECKING:
    from tests.manual_clock import ManualClock


class ScriptedNames:
    """See `egress_router.upstreams.followed.Names`; names that it does not know do not exist."""

    def __init__(self, clock: ManualClock, ttl: float = 30.0) -> None:
        self.clock = clock
        self.ttl = ttl
        self.known: dict[str, tuple[str, ...] | Failure] = {}
        self.asked: list[tuple[str, float | None]] = []

    async def resolve(self, name: str, *, denial_seconds: float | None = None) -> Answer:
        self.asked.append((name, denial_seconds))
        found = self.known.get(name, Failure.NO_SUCH_NAME)
        if isinstance(found, Failure):
            raise ResolveError(found, f"{name}: {found.value}")
        addresses = tuple(map(ip_address, found))
        return Answer(addresses, self.clock.monotonic() + self.ttl, stale=False, name=name)

    def close(self) -> None:
        pass
