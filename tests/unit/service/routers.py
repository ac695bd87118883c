"""Runs the echo mode as real processes: a supervisor and its workers."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.measured import measured
from tests.ports import free_port
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

ROOT = Path(__file__).parents[3]
PROGRAM = Path(__file__).with_name("echo_mode.py")


@contextlib.contextmanager
def descriptors_below(limit: int, pid: int) -> Iterator[None]:
    """Let a process open nothing with a number from `limit` on; what it has open stays."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def connections_at(port: int) -> int:
    """Return how many connections to a port of this machine its server has not closed yet."""
    at = f":{port:04X}"
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()
    ]
    return sum(row[1].endswith(at) and row[3] in {"01", "08"} for row in rows)  # ESTABLISHED, CLOSE_WAIT


def holders(client_port: int, pids: Iterable[int]) -> set[int]:
    """Return which of these processes have the other end of a connection from a port of this machine."""
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()
    ]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[2].endswith(f":{client_port:04X}")}
    return {pid for pid in pids if sockets & opened(pid)}


def opened(pid: int) -> set[str]:
    """Return what a process has open, apart from the standard streams and what it closes meanwhile."""
    found = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        if int(each.name) < 3:
            continue
        with contextlib.suppress(FileNotFoundError):
            found.add(str(each.readlink()))
    return found


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in text.split()]


def lowest_free_descriptor(pid: int) -> int:
    used = {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in itertools.count() if number not in used)


@dataclass
class Router:
    rules: Path
    port: int
    errors: Path
    admin: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] = field(init=False)

    def start(
        self,
        environment: dict[str, str],
        wrap: Sequence[str] = (),
        stdout: int | Any = subprocess.DEVNULL,
        stderr: Any = None,
    ) -> None:
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*wrap, sys.executable, str(PROGRAM)],
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(ROOT),
                    "ECHO_RULES_FILE": str(self.rules),
                    "EGRESS_ADMIN_PORT": str(self.admin),
                    "EGRESS_WORKERS": "1",
                    "EGRESS_INTERFACE": "none0",
                    **measured(),
                    **environment,
                },
                stdout=stdout,
                stderr=stderr or errors,
            )

    def wait_ready(self) -> None:
        until(lambda: self.process.poll() is not None or self.get("/readyz")[0] == 200, "ready")
        assert self.process.poll() is None, self.said()

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.admin}{path}", timeout=WAIT_SECONDS
            ) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def status(self) -> dict[str, Any]:
        """Return a status that was made after this call: one serves for a second."""
        asked = time.time()
        found: dict[str, Any] = {}

        def is_new() -> bool:
            text = self.get("/status")[1]
            found.update(json.loads(text) if text else {"time": 0})
            return bool(found["time"] >= asked)

        until(is_new, "a status of now")
        return found

    def metric(self, name: str) -> float:
        """Return a metric, as it was a second ago at the earliest."""
        text = self.get("/metrics")[1]
        return sum(
            float(value)
            for value in re.findall(rf"^egress_router_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        )

    def workers(self) -> list[int]:
        return [each["pid"] for each in self.status()["workers"] if each["serves"]]

    def said(self) -> str:
        return self.errors.read_text()

    def connect(self, port: int | None = None) -> Client:
        return Client(socket.create_connection(("127.0.0.1", port or self.port), timeout=WAIT_SECONDS))

    def refuses(self, port: int) -> bool:
        """Say whether nobody listens on a port; false while somebody is about to stop."""
        try:
            with self.connect(port):
                return False
        except (ConnectionRefusedError, ConnectionResetError, ValueError) as error:
            return isinstance(error, ConnectionRefusedError)

    def wait(self) -> int:
        return self.process.wait(WAIT_SECONDS)


class Client:
    """A connection to the echo mode: its greeting is read, and lines come back."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.file = sock.makefile("rb")
        try:
            pid, _, word = self.file.readline().decode().strip().partition(" ")
            self.pid, self.word = int(pid), word
        except (ValueError, OSError):
            self.close()
            raise

    def echo(self, text: str) -> str:
        self.sock.sendall(text.encode() + b"\n")
        return self.file.readline().decode().rstrip("\n")

    def ended(self) -> bool:
        try:
            return self.file.read() == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.file.close()
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def router(
    folder: Path,
    *,
    wrap: Sequence[str] = (),
    stdout: int | Any = subprocess.DEVNULL,
    stderr: Any = None,
    **environment: str,
) -> Iterator[Router]:
    port = free_port()
    rules = folder / "rules"
    rules.write_text(f"{port} one\n")
    running = Router(rules, port, folder / "errors")
    running.start(environment, wrap, stdout, stderr)
    try:
        running.wait_ready()
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()  # its workers end with it
        running.process.wait(WAIT_SECONDS)


def word(running: Router, port: int | None = None) -> str:
    """Return the word of the rule that serves a port."""
    with running.connect(port) as client:
        return client.word
