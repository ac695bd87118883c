"""Signals that come while a proxy still loads its code."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.measured import measured
from tests.ports import free_port
from tests.unit.service.routers import ROOT, children
from tests.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

AS_FIRST_PROCESS = ("unshare", "--pid", "--fork", "--kill-child")


@contextlib.contextmanager
def starting(mode: str, wrap: Sequence[str], errors: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a proxy; yield what was started, and the process id of the proxy itself."""
    name = mode.upper().replace("-", "_")
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        f"EGRESS_{name}_DESTINATION": "192.168.0.1" if mode == "http-proxy" else f"{free_port()} 192.168.0.1",
        "EGRESS_HTTP_PROXY_PORT": str(free_port()),
        "EGRESS_ADMIN_PORT": str(free_port()),
        "EGRESS_WORKERS": "2",
        "EGRESS_INTERFACE": "none0",
        **measured(),
    }
    command = [*wrap, sys.executable, "-m", "egress_router", mode]
    with errors.open("wb") as stream, subprocess.Popen(command, env=environment, stderr=stream) as started:
        try:
            limit = time.monotonic() + WAIT_SECONDS
            pid = started.pid
            while wrap and time.monotonic() < limit and pid == started.pid:
                pid = next(iter(children(started.pid)), pid)
            while not has_sigterm("SigBlk", pid):
                assert time.monotonic() < limit
                assert not has_sigterm("SigCgt", pid), "SIGTERM was not held back before it could be handled"
            yield started, pid
        finally:
            started.kill()


def has_sigterm(kind: str, pid: int) -> bool:
    """Say whether a process holds SIGTERM back (`SigBlk`) or handles it (`SigCgt`)."""
    if "python" not in Path(f"/proc/{pid}/exe").readlink().name:
        return False  # still `unshare`, which holds signals back for a purpose of its own
    signals = re.search(rf"{kind}:\t(\w+)", Path(f"/proc/{pid}/status").read_text())
    return signals is not None and bool(int(signals[1], 16) & 1 << (signal.SIGTERM - 1))


@pytest.mark.parametrize("wrap", [(), AS_FIRST_PROCESS], ids=["child", "first"])
@pytest.mark.parametrize("mode", ["http-proxy", "dns-proxy"])
def test_it_ends_in_order(tmp_path: Path, mode: str, wrap: Sequence[str]) -> None:
    with starting(mode, wrap, tmp_path / "errors") as (started, pid):
        os.kill(pid, signal.SIGHUP)
        os.kill(pid, signal.SIGTERM)
        assert started.wait(WAIT_SECONDS) == 0
    said = (tmp_path / "errors").read_text()
    assert "asked to end signal=SIGTERM" in said
    assert "worker died" not in said


def test_workers_that_load_their_code_leave_the_decision_to_the_first_process(tmp_path: Path) -> None:
    with starting("dns-proxy", (), tmp_path / "errors") as (started, pid):
        limit = time.monotonic() + WAIT_SECONDS
        while not (workers := children(pid)):
            assert time.monotonic() < limit
        for worker in workers:
            os.kill(worker, signal.SIGINT)  # as Ctrl-C in a terminal, which goes to every process
        while "worker serves" not in (tmp_path / "errors").read_text():
            assert time.monotonic() < limit
        started.terminate()
        assert started.wait(WAIT_SECONDS) == 0
    assert "worker died" not in (tmp_path / "errors").read_text()
