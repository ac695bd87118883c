"""Logs must not stop the service, whatever happens to the streams."""

from __future__ import annotations

import fcntl
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.metrics import Number
from egress_router.service.output import Output
from egress_router.service.repeats import Repeats
from tests.shortages import refuse_thread
from tests.unit.service.routers import router
from tests.waiting import until

if TYPE_CHECKING:
    import pytest

F_SETPIPE_SZ = 1031


def small_pipe() -> tuple[int, int]:
    read, write = os.pipe()
    fcntl.fcntl(write, F_SETPIPE_SZ, 4096)
    return read, write


def record(
    message: str, level: int = logging.INFO, created: float = 100.0, **fields: str
) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "egress_router.test", "levelno": level, "created": created})
    made.levelname, made.msg = logging.getLevelName(level), message
    for name, value in fields.items():
        log.add_field(made, name, value)
    return made


def output(descriptor: int, most: int = 10) -> tuple[Output, Number]:
    dropped = Number()
    made = Output(descriptor, dropped, most)
    made.setFormatter(log.EventFormatter("text"))
    return made, dropped


def test_lines_come_out_in_order() -> None:
    read, write = os.pipe()
    made, dropped = output(write, most=1000)
    for number in range(100):
        made.emit(record(f"line {number}"))
    made.flush()
    lines = os.read(read, 65536).decode().splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == [f"line {number}" for number in range(100)]
    assert dropped.value == 0


def test_lines_wait_until_a_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    made, dropped = output(write)
    started = refuse_thread(monkeypatch)
    made.emit(record("one"))
    made.emit(record("two"))
    made.flush()
    lines = os.read(read, 65536).decode().splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["one", "two"]
    assert (started, dropped.value) == ([False, True], 0)


def test_a_blocked_pipe_costs_lines_which_are_counted_and_said() -> None:
    read, write = small_pipe()
    made, dropped = output(write)
    for number in range(200):
        made.emit(record(f"{number} " + "x" * 1000))
    assert dropped.value > 100
    found = b""
    while sum(lost(found)) < dropped.value:
        found += os.read(read, 65536)
    assert sum(lost(found)) == dropped.value


def lost(text: bytes) -> list[int]:
    return [int(each) for each in re.findall(rb"log lines were lost lines=(\d+)\n", text)]


def test_a_broken_stream_costs_lines_only() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    made, dropped = output(descriptor)
    made.emit(record("lost"))
    until(lambda: dropped.value >= 1, "the loss counted")


def test_identical_warnings_become_a_count() -> None:
    repeats = Repeats(seconds=10)
    assert repeats.admit(record("slow", logging.WARNING, 100.0, server="a"))
    assert repeats.admit(record("slow", logging.WARNING, 100.0, server="b"))
    assert not any(repeats.admit(record("slow", logging.WARNING, 101.0 + n, server="a")) for n in range(5))
    assert repeats.pending is True
    assert repeats.summaries(109.0) == []
    (summary,) = repeats.summaries(110.0)
    assert "server=a repeated=5" in log.EventFormatter("text").format(summary)
    assert [repeats.pending] == [False]
    assert repeats.summaries(120.0) == []
    assert repeats.admit(record("slow", logging.WARNING, 121.0, server="a"))


def test_the_memory_of_repeats_is_bounded() -> None:
    repeats = Repeats()
    for number in range(5000):
        assert repeats.admit(record("peer", logging.WARNING, 100.0, client=str(number)))
        repeats.admit(record("peer", logging.WARNING, 100.0, client=str(number)))
    assert len(repeats.summaries(200.0)) == 1000
    assert not repeats.pending


def test_a_service_with_blocked_logs_goes_on_serving(tmp_path: Path) -> None:
    read, write = small_pipe()
    with router(tmp_path, stdout=write, EGRESS_ACCESS_LOG="1", ECHO_LOG="1") as running:
        for _ in range(100):  # of which the pipe holds four
            with running.connect() as client:
                assert client.echo("x") == "x"
        assert running.get("/healthz")[0] == 200
    os.close(read)
    os.close(write)


def test_a_service_whose_log_streams_are_closed_or_full_goes_on_serving(tmp_path: Path) -> None:
    with (
        Path("/dev/full").open("wb") as full,
        router(tmp_path, stdout=full, stderr=full, ECHO_LOG="1") as running,
    ):
        with running.connect() as client:
            assert client.echo("x") == "x"
        until(lambda: running.metric("log_lines_dropped_total") > 0, "losses counted")
        running.process.terminate()
        assert running.wait() == 0


def test_a_service_started_without_streams_runs(tmp_path: Path) -> None:
    closed = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh"]
    with (
        router(tmp_path, wrap=closed, ECHO_LOG="1") as running,
        running.connect() as client,
    ):
        assert client.echo("x") == "x"
