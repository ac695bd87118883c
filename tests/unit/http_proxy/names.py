"""Names without name servers: what stands in for the resolver of a proxy."""

from __future__ import annotations

import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, ClassVar

from egress_router.names.answer import Answer, Failure, ResolveError
from egress_router.names.resolver import Resolver

if TYPE_CHECKING:
    import pytest

    from egress_router.grammar.address import IPAddress
    from egress_router.http_proxy import server


class Names:
    """Stands in for the resolver: names from a table, those of `slow` only when they are waited for.

    `search` maps short names to what they stand for.
    """

    table: ClassVar[dict[str, tuple[IPAddress, ...] | Failure]]
    slow: ClassVar[set[str]]
    asked: ClassVar[list[str]]
    clients: ClassVar[list[str]]
    search: ClassVar[dict[str, str]]

    def __init__(self, *_: object) -> None:
        pass

    def cached(self, name: str) -> Answer | None:
        found = self.table.get(name)
        if found is None or isinstance(found, Failure) or name in self.slow:
            return None
        return self.answer(name, found)

    def answer(self, name: str, found: tuple[IPAddress, ...]) -> Answer:
        full_name = self.search.get(name, name.removesuffix("."))
        return Answer(found, time.monotonic() + 60, stale=False, name=full_name)

    def candidates(self, name: str) -> tuple[str, ...]:
        return (self.search[name],) if name in self.search else (name,)

    def used_again(self, name: str, count: int) -> None:
        pass

    async def resolve(self, name: str, *, client: str = "", denial_seconds: float | None = None) -> Answer:
        self.asked.append(name)
        self.clients.append(client)
        found = self.table.get(name, Failure.NO_SUCH_NAME)
        if isinstance(found, Failure):
            raise ResolveError(found, f"{name}: {found.value}")
        return self.answer(name, found)

    def close(self) -> None:
        pass


def know(monkeypatch: pytest.MonkeyPatch, *, slow: bool = False, **names: str | Failure) -> type[Names]:
    """Let the proxy know these names, `_` for `.`: one or more addresses, or a failure."""

    class Known(Names):
        pass

    Known.table = {
        name.replace("_", "."): found if isinstance(found, Failure) else tuple(map(ip_address, found.split()))
        for name, found in names.items()
    }
    Known.slow = set(Known.table) if slow else set()
    Known.asked = []
    Known.clients = []
    Known.search = {}
    monkeypatch.setattr(InUse, "names", Known)
    return Known


class InUse:
    """What resolves names in the proxies of a test: the real resolver, unless `know` says otherwise."""

    names: ClassVar[server.MakeNames] = Resolver
