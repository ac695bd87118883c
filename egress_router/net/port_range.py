"""How many source ports the kernel has for connections whose port it chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_FILE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_DEFAULT: Final = 28_232  # 32768 to 60999: Documentation/networking/ip-sysctl.rst


def size(file: Path = _FILE) -> int:
    """Return how many source ports an address has towards each destination, the same for both families."""
    try:
        first, last = map(int, file.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return _DEFAULT
    return last - first + 1
