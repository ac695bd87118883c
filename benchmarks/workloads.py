"""What a contestant has to do, and what one run measured."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmarks.contestants import (
    ECHO_PORT,
    FORWARD_ECHO_PORT,
    FORWARD_PORT,
    ORIGIN_PORT,
    Contestant,
    Running,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SOURCES = Path(__file__).parent / "load"
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Workload:
    """What the load generator does, and the unit in which CPU time (or memory) is given."""

    name: str
    mode: Literal["churn", "keepalive", "ping", "down", "both", "idle"]
    form: Literal["direct", "connect", "absolute", "tls", "connect-tls"]
    connections: int
    operations: int
    size: int = 0
    unit: Literal["µs/op", "s/GiB", "KiB"] = "µs/op"

    @property
    def echoes(self) -> bool:
        """Whether it uses the echo server."""
        return self.mode in {"ping", "both", "idle"}


@dataclass(frozen=True, slots=True)
class Result:
    """One run: CPU time (or memory) in the workload's unit, operations a second, latencies in µs."""

    cost: float
    rate: float
    p50: float
    p99: float
    p999: float


class Tools:
    """The compiled load generator and origin."""

    def __init__(self, folder: Path) -> None:
        for name in ("load", "origin", "floor", "openloop", "alone"):
            subprocess.run(
                ["cc", "-O2", "-D_GNU_SOURCE", "-o", str(folder / name), str(_SOURCES / f"{name}.c")],
                check=True,
            )
        self._folder = folder

    def floor(self) -> Contestant:
        """Return the relay in C that only relays: it shows what the system calls alone cost."""
        ports = (FORWARD_PORT, ORIGIN_PORT, FORWARD_ECHO_PORT, ECHO_PORT)
        command = [str(self._folder / "floor"), *map(str, ports)]
        return Contestant("bare relay in C", lambda _: command, {}, FORWARD_PORT)

    @contextlib.contextmanager
    def origin(self) -> Iterator[None]:
        """Run the origin during the block."""
        process = subprocess.Popen(
            [str(self._folder / "origin"), str(ORIGIN_PORT)], stdout=subprocess.PIPE, text=True
        )
        try:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise SystemExit(f"port {ORIGIN_PORT} or {ECHO_PORT} is taken")
            yield
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def run(self, workload: Workload, port: int, contestant: Running | None) -> Result:
        """Run a workload once against the port of a contestant; None: against the origin itself."""
        if workload.mode == "idle":
            return self._idle(workload, port, contestant)
        before = 0.0 if contestant is None else contestant.cpu_seconds()
        report = self.attempt(workload, port)
        used = 0.0 if contestant is None else contestant.cpu_seconds() - before
        if report["errors"]:
            raise SystemExit(
                f"{workload.name}: {report['errors']} of {report['operations']} operations failed"
            )
        moved = report["bytes"] * (2 if workload.mode == "both" else 1)
        cost = used / (moved / GIB) if workload.unit == "s/GiB" else used / report["operations"] * 1e6
        rate = (
            moved / GIB / report["seconds"]
            if workload.unit == "s/GiB"
            else report["operations"] / report["seconds"]
        )
        return Result(cost, rate, report["p50_us"], report["p99_us"], report["p999_us"])

    def attempt(self, workload: Workload, port: int) -> dict[str, float]:
        """Run a workload once; return what the load generator reports, including failed operations."""
        with self.begun(workload, port) as finished:
            return finished()

    @contextlib.contextmanager
    def begun(self, workload: Workload, port: int) -> Iterator[Callable[[], dict[str, float]]]:
        """Start a workload; the block gets a function that waits for its end and returns its report."""
        process = subprocess.Popen(
            self._command(workload, port), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

        def finish() -> dict[str, float]:
            output, errors = process.communicate(timeout=200)
            if process.returncode:
                raise SystemExit(f"{workload.name}: the load generator failed: {output}{errors}")
            report: dict[str, float] = json.loads(output)
            return report

        try:
            yield finish
        finally:
            process.kill()
            process.wait()

    def open_loop(self, port: int, connections: int, rate: int, seconds: int) -> dict[str, float]:
        """Send `rate` messages a second at fixed times; return latencies, from when each was due."""
        numbers = map(str, (port, connections, rate, seconds))
        done = subprocess.run(
            [str(self._folder / "openloop"), *numbers], capture_output=True, text=True, check=True
        )
        report: dict[str, float] = json.loads(done.stdout)
        return report

    def _idle(self, workload: Workload, port: int, contestant: Running | None) -> Result:
        before = 0 if contestant is None else contestant.memory_kib()
        process = subprocess.Popen(
            self._command(workload, port), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if process.stdout is None:
            raise AssertionError("a pipe was asked for")
        output = process.stdout.readline()
        after = 0 if contestant is None else contestant.memory_kib()
        process.communicate()
        if output != f"ready {workload.connections}\n":
            raise SystemExit(
                f"{workload.name}: expected {workload.connections} open connections, got: {output}"
            )
        return Result((after - before) / workload.connections, 0, 0, 0, 0)

    def _command(self, workload: Workload, port: int) -> list[str]:
        target = ECHO_PORT if workload.echoes else ORIGIN_PORT
        numbers = (port, target, workload.connections, workload.operations, workload.size)
        return [str(self._folder / "load"), workload.mode, *map(str, numbers), workload.form]


@contextlib.contextmanager
def tools() -> Iterator[Tools]:
    """Compile the C programs, and keep them during the block."""
    with tempfile.TemporaryDirectory(prefix="bench-load-") as folder:
        yield Tools(Path(folder))
