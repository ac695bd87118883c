"""Signals that come when a router has done what it was asked for."""

from __future__ import annotations

import subprocess
import sys

from tests.measured import measured
from tests.unit.service.routers import ROOT
from tests.waiting import WAIT_SECONDS

ENDS = """
import asyncio, os, signal
from egress_router.service import loop, signals

class Last:
    kill, pid = os.kill, os.getpid()

    def __del__(self, number=signal.SIGTERM):  # when the interpreter handles no signals any more
        type(self).kill(self.pid, number)

async def main() -> None:
    signals.handle(asyncio.get_running_loop(), lambda _: None, lambda: None)

last = Last()
loop.run(main)
"""


def test_a_signal_that_comes_while_the_process_ends_does_not_change_its_exit_status() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDS],
        env={"PYTHONPATH": str(ROOT), **measured()},
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert ended.returncode == 0
