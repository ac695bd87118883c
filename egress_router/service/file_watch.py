"""Notices when rules files change, in place or by the symbolic-link swap that Kubernetes does.

It polls, because inotify on a path does not follow the swap of `..data`. One `stat` each half second is
cheap, and soon enough: a change must take effect within 2 s.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

from egress_router.files import Signature, signature

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

INTERVAL = 0.5  # seconds

Signatures: TypeAlias = "tuple[Signature | None, ...]"


async def changes(
    paths: Sequence[Path], interval: float = INTERVAL, look: Callable[[Path], Signature | None] = signature
) -> AsyncIterator[Signatures]:
    """Yield the first signatures, and then each time new ones: so no change since an earlier read is missed.

    All must stay the same for one interval: a program that writes in place truncates first, and half
    a file can be valid rules.
    """
    known: Signatures | None = None
    before: Signatures | None = None
    while True:
        await asyncio.sleep(interval)
        now = tuple(map(look, paths))
        if now != known and now == before:
            known = now
            yield now
        before = now
