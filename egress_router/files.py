"""How a change of a file is noticed; everything that follows a file compares its signature."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

Signature = tuple[int, int, int, int, int]


def signature(path: Path) -> Signature | None:
    """Return what changes whenever the file's content or permissions change; None while there is no file."""
    try:
        seen = path.stat()
    except OSError:
        return None
    # Only the kernel sets ctime: it changes with every chmod, and also if a program sets mtime back.
    return (seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size)
