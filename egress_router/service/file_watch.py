"""Notices that rules files changed, in place or by the symbolic-link swap that Kubernetes does.

By polling: inotify on a path does not follow the swap of `..data`, and one `stat` in half a second costs
nothing beside the 2 s in which a change must take effect.
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
    """Yield the signatures when one of them changed, and the first ones: an earlier read misses no change.

    All of them must have stayed the same for one interval: whoever writes in place truncates first, and half
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
