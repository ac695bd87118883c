from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.metrics import Registry
from egress_router.names.answer import ResolveError
from egress_router.names.resolver import Resolver, Sources, system_sources
from egress_router.settings.names import NamesSettings
from tests.manual_clock import ManualClock
from tests.serving import LOOPS
from tests.waiting import until_awaited

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path
    from typing import TypeVar

    from egress_router.names.resolv_conf import ResolvConf

    T = TypeVar("T")


class Lab:
    """Runs coroutines in one event loop and makes resolvers whose files are temporary and whose clock is set.

    `time_out` is how long a server is waited for, where that is less than the second that resolv.conf can say.
    """

    def __init__(self, folder: Path, runner: asyncio.Runner) -> None:
        self.resolv_conf = folder / "resolv.conf"
        self.hosts = folder / "hosts"
        self.registry = Registry()
        self.clock = ManualClock()
        self.time_out: float | None = None
        self._runner = runner
        self.configure("nameserver 127.0.0.1")

    def configure(self, *lines: str, options: str = "timeout:10 attempts:1") -> None:
        self.resolv_conf.write_text("\n".join([*lines, f"options {options}", ""]))

    def resolver(self, port: int, settings: NamesSettings | None = None) -> Resolver:
        files = system_sources(self.resolv_conf, self.hosts, port)

        def conf(now: float) -> ResolvConf:
            told = files.conf(now)
            return told if self.time_out is None else replace(told, timeout=self.time_out)

        return Resolver(
            settings or NamesSettings(),
            self.registry,
            clock=self.clock,
            sources=Sources(conf, files.hosts, port),
        )

    def run(self, coroutine: Coroutine[object, object, T]) -> T:
        return self._runner.run(coroutine)

    def resolve(self, resolver: Resolver, name: str) -> list[str]:
        return [str(address) for address in self.run(resolver.resolve(name)).addresses]

    def become(self, resolver: Resolver, name: str, *addresses: str, seconds: float = 1.0) -> None:
        """Ask again and again, `seconds` of the set clock later, until the name has exactly these addresses."""
        self.run(self.becoming(resolver, name, *addresses, seconds=seconds))

    async def becoming(self, resolver: Resolver, name: str, *addresses: str, seconds: float = 1.0) -> None:
        wanted = [ip_address(address) for address in addresses]

        async def has_them() -> bool:
            with contextlib.suppress(ResolveError):
                if list((await resolver.resolve(name)).addresses) == wanted:
                    return True
            self.clock.advance(seconds)
            return False

        await until_awaited(has_them)

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.snapshot()[name].numbers[tuple(sorted(labels.items()))]


@pytest.fixture(params=sorted(LOOPS))
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    with asyncio.Runner(loop_factory=lambda: LOOPS[request.param]()[0]) as runner:
        yield Lab(tmp_path, runner)


@pytest.fixture
def standard_lab(tmp_path: Path) -> Iterator[Lab]:
    with asyncio.Runner() as runner:
        yield Lab(tmp_path, runner)
