"""One side of a pair: a node and the router pod on it."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router.lab.host import Host

if TYPE_CHECKING:
    import subprocess

PODS = ("10.128.0.2", "10.128.0.3")


class Side:
    """One node and its router pod."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.address = PODS[number]
        self.errors: deque[str] = deque(maxlen=200)
        self.rebuild()

    def rebuild(self) -> None:
        """Create a new node and pod; no router runs in it yet."""
        self.node = Host(f"{self.name}-node")
        self.pod = Host(f"{self.name}-pod")
        self.router: subprocess.Popen[str] | None = None
        self.has_account = False

    def close(self) -> None:
        """End both."""
        self.pod.close()
        self.node.close()

    def pids(self) -> list[int]:
        """Return the processes of the router."""
        if self.router is None:
            return []
        found = [self.router.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += [int(each) for each in (task / "children").read_text("ascii").split()]
        return found

    def waited(self) -> float:
        """Return for how many seconds in all the router's threads were ready to run and had no processor."""
        nanoseconds = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    # Nanoseconds that it ran, and that it waited (Documentation/scheduler/sched-stats).
                    nanoseconds += int((task / "schedstat").read_text("ascii").split()[1])
        return nanoseconds / 1e9

    def signal(self, number: int) -> None:
        """Send a signal to every process of the router."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
