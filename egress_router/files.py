"""What tells that a file changed; everything that follows one compares this."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

Signature = tuple[int, int, int, int, int]


def signature(path: Path) -> Signature | None:
    """Return what changes whenever the file's content or its permissions do; None while there is none."""
    try:
        seen = path.stat()
    except OSError:
        return None
    # The kernel alone sets ctime: also where a program sets mtime back, and with every chmod.
    return (seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size)
