"""Settings under /proc/sys, which most containers see read-only."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path("/proc/sys")


def read(name: str) -> int | None:
    """Return the value of a sysctl (`net/ipv4/ip_forward`); None if the kernel has no such setting."""
    try:
        return int((ROOT / name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def is_writable(name: str) -> bool:
    """Say whether this process may change a sysctl."""
    return os.access(ROOT / name, os.W_OK)


def ensure(name: str, value: int) -> bool:
    """Set a sysctl to this value; return whether it has it. Writes only if it differs."""
    if read(name) == value:
        return True
    try:
        (ROOT / name).write_text(str(value), encoding="ascii")
    except OSError:
        return False
    return True


def ensure_at_most(name: str, value: int) -> bool:
    """Lower a sysctl to this value; return whether it is not higher. Writes only if it is higher."""
    known = read(name)
    return (known is not None and known <= value) or ensure(name, value)
