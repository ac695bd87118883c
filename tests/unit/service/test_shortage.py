"""Too few descriptors: what goes on, what is refused, and what is said."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from egress_router.service.control import Channel, Serve
from tests.measured import measured
from tests.ports import free_port
from tests.unit.service.routers import (
    PROGRAM,
    ROOT,
    Router,
    connections_at,
    descriptors_below,
    lowest_free_descriptor,
    router,
    word,
)
from tests.waiting import WAIT_SECONDS, until


def test_a_worker_that_could_not_be_started_is_tried_again(tmp_path: Path) -> None:
    with router(tmp_path) as running:
        (worker,) = running.workers()
        with descriptors_below(3, running.process.pid):
            os.kill(worker, signal.SIGKILL)
            until(lambda: running.said().count("worker cannot be started") >= 2, "two starts in vain")
        until(lambda: len(running.workers()) == 1, "a replacement")
        assert 'worker=0 reason="Too many open files" restart_seconds=0.2' in running.said()
        with running.connect() as client:
            assert client.echo("served") == "served"


def test_a_worker_without_the_sockets_of_its_rules_ends_and_says_so() -> None:
    loop = asyncio.new_event_loop()
    ours, theirs = socket.socketpair()
    channel = Channel(loop, ours, lambda *_: None, lambda: None)
    channel.send(Serve(None, frozenset({80, 81})))
    with theirs:
        ended = subprocess.run(
            [sys.executable, PROGRAM, "--worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={"PYTHONPATH": str(ROOT), "ECHO_RULES": "80 unused", **measured()},
            capture_output=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
    channel.close()
    loop.close()
    assert ended.stderr == b"no socket came for 2 of 2 ports: raise the limit of open files\n"
    assert ended.returncode == 3


def test_too_few_descriptors_at_the_start_are_one_line_that_says_what_to_raise(tmp_path: Path) -> None:
    (tmp_path / "rules").write_text(f"{free_port()} one\n")
    failures: list[str] = []
    for most in range(9, 40):
        code, said = started_with(most, tmp_path)
        if code == 0:
            break
        assert code == 3, said
        failures += said.splitlines()
    assert len(failures) == most - 9, failures
    assert all("Too many open files): raise the limit" in each for each in failures)
    assert any(each.startswith("cannot load the administration endpoint") for each in failures)


def started_with(descriptors: int, folder: Path) -> tuple[int, str]:
    starting = Router(folder / "rules", 0, folder / f"errors{descriptors}")
    starting.start({}, ["prlimit", f"--nofile={descriptors}:{descriptors}"])
    until(lambda: starting.process.poll() is not None or "worker serves" in starting.said(), "a start")
    starting.process.terminate()
    return starting.wait(), starting.said()


def test_the_limit_of_open_files_is_raised_and_bounds_the_connections(tmp_path: Path) -> None:
    with router(tmp_path, wrap=["prlimit", "--nofile=256:1024"]) as running:
        for pid in (running.process.pid, *running.workers()):
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert re.search(r"Max open files +1024 +1024", limits), limits
        assert "wanted=10000 possible=447 open_files=1024" in running.said()


def test_a_worker_without_room_for_new_sockets_is_replaced_by_one_that_has_them(tmp_path: Path) -> None:
    with router(tmp_path) as running:
        (worker,) = running.workers()
        more = free_port()
        running.rules.write_text(f"{running.port} two\n{more} more\n")
        with descriptors_below(3, worker):
            running.process.send_signal(signal.SIGHUP)
            until(lambda: running.metric("worker_restarts_total") == 1, "the worker replaced")
        until(lambda: len(running.workers()) == 1, "a replacement")
        assert word(running) == "two"
        assert word(running, more) == "more"
        assert (
            "sockets were lost on their way to this worker: raise the limit of open files" in running.said()
        )


def test_without_a_free_descriptor_a_new_port_is_refused_and_the_old_rules_stay(tmp_path: Path) -> None:
    with router(tmp_path) as running:
        pid, more = running.process.pid, free_port()
        until(lambda: not connections_at(running.admin), "the end of the question for readiness")
        running.rules.write_text(f"{running.port} two\n{more} more\n")
        with descriptors_below(lowest_free_descriptor(pid) + 1, pid), running.connect() as old:
            running.process.send_signal(signal.SIGHUP)
            until(lambda: "changed rules are in force" in running.said(), "one descriptor to be enough")
            assert old.echo("untouched") == "untouched"
        assert word(running, more) == "more"
        third = free_port()
        running.rules.write_text(f"{running.port} three\n{third} third\n{free_port()} fourth\n")
        with descriptors_below(lowest_free_descriptor(pid) + 1, pid):
            running.process.send_signal(signal.SIGHUP)
            until(lambda: "Too many open files" in running.said(), "the refusal")
        assert (word(running), word(running, more)) == ("two", "more")
        assert running.refuses(third)


def test_without_a_free_descriptor_the_status_says_that_connections_are_not_counted(tmp_path: Path) -> None:
    with router(tmp_path) as running, running.connect() as client:
        assert client.echo("open") == "open"
        pid = running.process.pid
        until(lambda: running.status()["busiest"]["all_clients"] == 1, "the client counted")
        until(lambda: not connections_at(running.admin), "the end of the last question")
        with descriptors_below(lowest_free_descriptor(pid) + 1, pid):  # enough for the question itself
            shown = running.status()
        assert shown["busiest"]["all_clients"] == 0
        assert "open connections are not counted" in shown["recent_errors"][0]["text"]
        assert running.status()["busiest"]["all_clients"] == 1
