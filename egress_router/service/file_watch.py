"""Notices that a rules file changed, in place or by the symbolic-link swap that Kubernetes does.

By polling: inotify on a path does not follow the swap of `..data`, and one `stat` in half a second costs
nothing beside the 2 s in which a change must take effect.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from egress_router.files import Signature, signature

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

INTERVAL = 0.5  # seconds

_UNSEEN: Signature | None = (-1, -1, -1, -1, -1)  # of no file


async def changes(
    path: Path, interval: float = INTERVAL, look: Callable[[Path], Signature | None] = signature
) -> AsyncIterator[Signature | None]:
    """Yield the signature when it changed, and the first one: an earlier read misses no change.

    It must have stayed the same for one interval: whoever writes in place truncates first, and half a file
    can be valid rules.
    """
    known = before = _UNSEEN
    while True:
        await asyncio.sleep(interval)
        now = look(path)
        if now != known and now == before:
            known = now
            yield now
        before = now
