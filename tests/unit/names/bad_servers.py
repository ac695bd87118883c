"""A name whose server misbehaves, and what a look-up that fails says and leaves."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from egress_router.lab.zone import entry
from egress_router.names.answer import Failure, ResolveError
from tests.waiting import until_async

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.lab.zone import Zone
    from egress_router.names.resolver import Resolver
    from tests.unit.names.labs import Lab

DESCRIPTORS = Path("/proc/self/fd")
NAME = "a.example.com"
GOOD = {NAME: entry("192.0.2.1", ttl=0)}


def behaving(behaviour: str, only: str | None = None) -> Zone:
    return {NAME: entry("192.0.2.1", "2001:db8::1", behaviour=behaviour, only=only)}


def descriptors() -> int:
    return len(list(DESCRIPTORS.iterdir()))


@contextlib.contextmanager
def no_leak(lab: Lab, resolver: Resolver) -> Iterator[None]:
    """Fail if look-ups in the block leave descriptors open; a first one opens what the loop itself keeps."""

    async def count() -> int:
        return descriptors()

    with contextlib.suppress(ResolveError):
        lab.resolve(resolver, "warm-up.example.com")
    before = lab.run(count())
    yield
    # The other end of a connection may be closed a moment later.
    lab.run(until_async(lambda: descriptors() <= before))


def failure_of(lab: Lab, resolver: Resolver) -> Failure:
    with pytest.raises(ResolveError) as caught:
        lab.resolve(resolver, NAME)
    return caught.value.failure
