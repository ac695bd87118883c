"""How much memory this container may use."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from egress_router.settings.variables import whole

_WITHOUT_LIMIT: Final = 256 << 20
_LEAST: Final = 16 << 20

# cgroup v1 writes "no limit" as the largest number of whole pages below 2**63.
_UNLIMITED = 1 << 60


def memory_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that this container may use; None if there is no limit.

    Source: memory.max of cgroup v2, memory.limit_in_bytes of v1 (Linux Documentation/admin-guide).
    """
    for path in (cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes"):
        try:
            text = path.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        if text.isdecimal() and int(text) < _UNLIMITED:
            return int(text)
    return None


def held_bytes(text: str) -> int:
    """Read how many bytes connections may hold; `auto` is a quarter of the memory limit."""
    if text != "auto":
        return whole(1 << 20, 1 << 40)(text)
    limit = memory_limit()
    return _WITHOUT_LIMIT if limit is None else max(_LEAST, limit // 4)
