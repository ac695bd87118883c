"""How many connections each worker has open, in memory that all processes of the router share.

Each worker writes its own number only, so nothing is locked; what a dead worker had written, the supervisor
clears.
"""

from __future__ import annotations

import errno
import mmap
import os
from dataclasses import dataclass

from egress_router.errors import RefusedError

_WIDTH = 4  # bytes of a number, format "i"
_NOEXEC = 8  # MFD_NOEXEC_SEAL (Linux 6.3), without which vm.memfd_noexec=2 refuses; Python has no name for it


@dataclass(frozen=True, slots=True)
class ConnectionCounts:
    """The numbers of all workers, and the slot of this one among them."""

    numbers: memoryview
    slot: int


def make(workers: int) -> int:
    """Return a descriptor of the memory for so many workers.

    Raises:
        RefusedError: there is no descriptor or memory left.
    """
    try:
        descriptor = _memory()
        os.ftruncate(descriptor, workers * _WIDTH)
    except OSError as error:
        what = f"cannot make memory for the count of connections ({error.strerror})"
        raise RefusedError(what, "raise the limits of open files and memory") from None
    return descriptor


def mapped(descriptor: int, workers: int) -> memoryview:
    """Return the numbers of so many workers; the descriptor is not needed any more then."""
    return memoryview(mmap.mmap(descriptor, workers * _WIDTH)).cast("i")


def _memory() -> int:
    try:
        return os.memfd_create("connections", os.MFD_CLOEXEC | _NOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.memfd_create("connections", os.MFD_CLOEXEC)
