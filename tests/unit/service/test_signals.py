"""Signals that come when a router has done what it was asked for."""

from __future__ import annotations

import subprocess
import sys

from tests.measured import measured
from tests.unit.service.routers import ROOT
from tests.waiting import PATIENCE

ENDS = """
import asyncio, atexit, os, signal
from egress_router.service import loop, signals

async def main() -> None:
    signals.handle(asyncio.get_running_loop(), lambda _: None, lambda: None)

for number in signals.HELD:
    atexit.register(os.kill, os.getpid(), number)
loop.run(main)
"""


def test_a_signal_that_comes_while_the_process_ends_does_not_change_its_exit_status() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDS],
        env={"PYTHONPATH": str(ROOT), **measured()},
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0
