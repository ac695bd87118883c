"""Pipes that carry bulk data from socket to socket inside the kernel (splice(2))."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

PIPE_BYTES: Final = 1 << 20  # the largest that an unprivileged process may ask for (pipe(7))
# With less room than this the system calls cost more than the copying that they save.
_LEAST_BYTES = 1 << 16
_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Pipe:
    """A pipe on loan to one direction of a tunnel; `holds` counts the bytes in it."""

    __slots__ = ("_read_end", "_write_end", "holds")

    def __init__(self) -> None:
        """Raise OSError where descriptors ran out."""
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.holds = 0

    def enlarge(self) -> int:
        """Ask for `PIPE_BYTES` of room; return how much there is."""
        try:
            return fcntl.fcntl(self._write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            # Over fs.pipe-user-pages-soft: what a new pipe has must do.
            return fcntl.fcntl(self._write_end, fcntl.F_GETPIPE_SZ)

    def fill(self, source: int) -> int:
        """Move what the socket has into the pipe; 0 is its end. Raises OSError as `recv` does."""
        count = os.splice(source, self._write_end, PIPE_BYTES, flags=_FLAGS)
        self.holds += count
        return count

    def drain(self, sink: int) -> int:
        """Move what the pipe holds into the socket; return how much went. Raises OSError as `send` does."""
        count = os.splice(self._read_end, sink, self.holds, flags=_FLAGS)
        self.holds -= count
        return count

    def close(self) -> None:
        """Give both descriptors back; what the pipe holds is lost."""
        os.close(self._read_end)
        os.close(self._write_end)


class PipePool:
    """A bounded number of pipes: a pipe is two descriptors and up to 1 MiB of kernel memory.

    `lent` counts those that are on loan.
    """

    def __init__(self, most: int = 32) -> None:
        self._most = most
        self.lent = 0
        self._free: list[Pipe] = []

    def take(self) -> Pipe | None:
        """Return an empty pipe, or None: then copying has to do."""
        if self.lent == self._most:
            return None
        pipe = self._free.pop() if self._free else _new()
        if pipe is not None:
            self.lent += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Take a pipe back; one that still holds bytes of its tunnel is closed, never used again."""
        self.lent -= 1
        if pipe.holds:
            pipe.close()
        else:
            self._free.append(pipe)

    def close(self) -> None:
        """Close the pipes that are not on loan."""
        while self._free:
            self._free.pop().close()


def _new() -> Pipe | None:
    """Make a large pipe; None where there are no descriptors or no room for one."""
    try:
        pipe = Pipe()
    except OSError:
        return None
    if pipe.enlarge() < _LEAST_BYTES:
        pipe.close()
        return None
    return pipe
