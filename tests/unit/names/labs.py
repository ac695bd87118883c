from __future__ import annotations

import asyncio
import contextlib
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.metrics import Registry
from egress_router.names import cache, watched
from egress_router.names.answer import ResolveError
from egress_router.names.resolver import Resolver
from egress_router.settings.names import NamesSettings
from tests.serving import LOOPS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path
    from typing import TypeVar

    T = TypeVar("T")

# Each answer expires at once, so that a test sees the next answer without waiting.
SHORT = NamesSettings(ttl_floor=0.01, ttl_ceiling=0.01, stale_seconds=3600)


class Lab:
    """Runs coroutines in one event loop and makes resolvers whose files are temporary."""

    def __init__(self, folder: Path, runner: asyncio.Runner) -> None:
        self.resolv_conf = folder / "resolv.conf"
        self.hosts = folder / "hosts"
        self.registry = Registry()
        self._runner = runner
        self.configure("nameserver 127.0.0.1")

    def configure(self, *lines: str, options: str = "timeout:1 attempts:1") -> None:
        self.resolv_conf.write_text("\n".join([*lines, f"options {options}", ""]))

    def resolver(self, port: int, settings: NamesSettings | None = None) -> Resolver:
        return Resolver(
            settings or NamesSettings(),
            self.registry,
            resolv_conf=self.resolv_conf,
            hosts=self.hosts,
            port=port,
        )

    def run(self, coroutine: Coroutine[object, object, T]) -> T:
        return self._runner.run(coroutine)

    def resolve(self, resolver: Resolver, name: str) -> list[str]:
        return [str(address) for address in self.run(resolver.resolve(name)).addresses]

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.snapshot()[name].numbers[tuple(sorted(labels.items()))]


@pytest.fixture
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files be looked at, and failures and unknown names be asked for again, after less than a second."""
    monkeypatch.setattr(watched, "_INTERVAL", 0.05)
    monkeypatch.setattr(cache, "_FIRST_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(cache, "_NEGATIVE_SECONDS", (0.05, 0.05))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (what it waits for is in another thread or behind a timer)
            await asyncio.sleep(0.01)


async def addresses_become(resolver: Resolver, name: str, *addresses: str) -> None:
    """Ask again and again until the name has exactly these addresses."""
    wanted = [ip_address(address) for address in addresses]
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(ResolveError):
                if list((await resolver.resolve(name)).addresses) == wanted:
                    return
            await asyncio.sleep(0.01)


@pytest.fixture(params=sorted(LOOPS))
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    with asyncio.Runner(loop_factory=lambda: LOOPS[request.param]()[0]) as runner:
        yield Lab(tmp_path, runner)


@pytest.fixture
def standard_lab(tmp_path: Path) -> Iterator[Lab]:
    with asyncio.Runner() as runner:
        yield Lab(tmp_path, runner)
