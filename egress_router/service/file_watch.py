"""Notices when a rules file changes, in place or by the symbolic-link swap that Kubernetes does.

It polls, because inotify on a path does not follow the swap of `..data`. One `stat` each half second is
cheap, and soon enough: a change must take effect within 2 s.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from egress_router.files import Signature, signature

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

INTERVAL = 0.5  # seconds

_UNSEEN: Signature | None = (-1, -1, -1, -1, -1)  # no file has this one


async def changes(
    path: Path, interval: float = INTERVAL, look: Callable[[Path], Signature | None] = signature
) -> AsyncIterator[Signature | None]:
    """Yield the first signature, and then each new one: so no change since an earlier read is missed.

    A signature must stay the same for one interval: a program that writes in place truncates first, and half
    a file can be valid rules.
    """
    known = before = _UNSEEN
    while True:
        await asyncio.sleep(interval)
        now = look(path)
        if now != known and now == before:
            known = now
            yield now
        before = now
