"""Memory that all processes of the router share.

It holds how many connections each worker has open, and which ones the workers have made lately: one that
comes back to the router may arrive at another worker than the one that made it. Nothing is locked. Each
worker writes only its own count, which the supervisor clears when the worker dies.
"""

from __future__ import annotations

import errno
import mmap
import os
from dataclasses import dataclass

from egress_router.errors import RefusedError
from egress_router.relay.dataplane import OWN_BYTES

_WIDTH = 4  # bytes of a number, format "i"
_NOEXEC = 8  # MFD_NOEXEC_SEAL (Linux 6.3), without which vm.memfd_noexec=2 refuses; Python has no name for it


@dataclass(frozen=True, slots=True)
class SharedMemory:
    """The counts of all workers, the table of connections they made (plane/own.c), and this worker's slot."""

    counts: memoryview
    own: memoryview
    slot: int


def make(workers: int) -> int:
    """Return a descriptor of the memory for this many workers.

    Raises:
        RefusedError: there is no descriptor or memory left.
    """
    try:
        descriptor = _memory()
        os.ftruncate(descriptor, _size(workers))
    except OSError as error:
        what = f"cannot make memory for the count of connections ({error.strerror})"
        raise RefusedError(what, "raise the limits of open files and memory") from None
    return descriptor


def mapped(descriptor: int, workers: int, slot: int = 0) -> SharedMemory:
    """Map the memory of this many workers; the descriptor is not needed afterwards."""
    return _divided(memoryview(mmap.mmap(descriptor, _size(workers))), slot)


def unshared() -> SharedMemory:
    """Return memory for a worker that is the only one."""
    return _divided(memoryview(bytearray(_size(1))), 0)


def _size(workers: int) -> int:
    return OWN_BYTES + workers * _WIDTH


def _divided(memory: memoryview, slot: int) -> SharedMemory:
    return SharedMemory(memory[OWN_BYTES:].cast("i"), memory[:OWN_BYTES], slot)


def _memory() -> int:
    try:
        return os.memfd_create("workers", os.MFD_CLOEXEC | _NOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.memfd_create("workers", os.MFD_CLOEXEC)
