"""Metrics of this process: its version, and the resources that it uses."""

from __future__ import annotations

import contextlib
import os
import resource
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.metrics import Registry

_PAGE = resource.getpagesize()
_COUNT_SECONDS = 10.0  # counting tens of thousands of descriptors takes milliseconds


def describe(registry: Registry, mode: str, ready: Callable[[], tuple[str, ...]]) -> None:
    """Add the version that runs, and whether the router can do its job (`ready` returns why not)."""
    meaning = "The version that runs; always 1."
    registry.gauge("build_info", meaning, version=version("egress-router"), mode=mode).value = 1
    is_ready = registry.gauge("ready", "1 while /readyz says that the router can do its job.")

    def refresh() -> None:
        is_ready.value = 0 if ready() else 1

    registry.before_snapshot(refresh)


def register(registry: Registry) -> None:
    """Add processor time, memory and descriptors of this process; those of several processes add up."""
    cpu = registry.counter("process_cpu_seconds_total", "Processor time used, user and system.")
    memory = registry.gauge("process_resident_memory_bytes", "Memory in use, shared pages counted each time.")
    descriptors = registry.gauge("process_open_fds", "Open file descriptors.")

    counted = -_COUNT_SECONDS

    def refresh() -> None:
        nonlocal counted
        times = os.times()
        cpu.value = times.user + times.system
        # Without a free descriptor /proc cannot be read: these figures stay, all others are current.
        with contextlib.suppress(OSError):
            memory.value = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE
            if times.elapsed - counted >= _COUNT_SECONDS:
                counted = times.elapsed
                descriptors.value = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (iterdir makes Paths)

    registry.before_snapshot(refresh)
