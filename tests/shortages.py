"""Shortages of what the kernel gives, for tests."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def refuse_thread(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Let the next thread not start, as where pids.max is reached; return, for each since, whether it did."""
    start = threading.Thread.start
    started: list[bool] = []

    def refuse_or_start(thread: threading.Thread) -> None:
        started.append(bool(started))
        if not started[-1]:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_or_start)
    return started
