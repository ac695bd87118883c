"""The programs that are measured, each started in its own folder, with the configuration that people use.

squid and haproxy run with the configurations that the original images write, with one thread each. Everything
listens on loopback.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ORIGIN_PORT, ECHO_PORT = 18000, 18001
PROXY_PORT = 18080
TRANSPARENT_PORT = 18083
FORWARD_PORT, FORWARD_ECHO_PORT = 18081, 18082

SQUID = f"""\
http_port 127.0.0.1:{PROXY_PORT}
cache deny all
access_log none all
debug_options ALL,0
shutdown_lifetime 0
pid_filename none
max_filedescriptors 65536
{{rules}}
http_access deny all
"""
# From egress-dns-proxy.sh, with one thread and without its log server.
HAPROXY = f"""\
global
    maxconn 8000
    nbthread 1
defaults
    mode tcp
    option dontlognull
    retries 3
    maxconn 8000
    timeout queue 1m
    timeout connect 10s
    timeout client 1m
    timeout server 1m
    timeout check 10s
frontend fe1
    bind 127.0.0.1:{FORWARD_PORT}
    default_backend be1
backend be1
    server dest 127.0.0.1:{ORIGIN_PORT} check
frontend fe2
    bind 127.0.0.1:{FORWARD_ECHO_PORT}
    default_backend be2
backend be2
    server dest 127.0.0.1:{ECHO_PORT} check
"""
TINYPROXY = f"""\
Port {PROXY_PORT}
Listen 127.0.0.1
Timeout 600
MaxClients 4000
Allow 127.0.0.1
LogLevel Critical
"""


NGINX = f"""\
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
error_log stderr crit;
pid {{folder}}/nginx.pid;
events {{{{
    worker_connections 16384;
}}}}
stream {{{{
    proxy_timeout 1m;
    tcp_nodelay on;
    server {{{{
        listen 127.0.0.1:{FORWARD_PORT};
        proxy_pass 127.0.0.1:{ORIGIN_PORT};
    }}}}
    server {{{{
        listen 127.0.0.1:{FORWARD_ECHO_PORT};
        proxy_pass 127.0.0.1:{ECHO_PORT};
    }}}}
}}}}
"""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One program: its name in the tables, the command for a folder, extra environment, and its port."""

    name: str
    command: Callable[[Path], list[str]]
    environment: Mapping[str, str]
    port: int


def squid(
    rules: str = "acl dest1 dst 127.0.0.0/8\nhttp_access allow dest1", name: str = "squid"
) -> Contestant:
    """Return the original's squid, with these rules."""

    def command(folder: Path) -> list[str]:
        (folder / "squid.conf").write_text(SQUID.format(rules=rules))
        return ["squid", "-N", "-f", str(folder / "squid.conf")]

    return Contestant(name, command, {}, PROXY_PORT)


def tinyproxy() -> Contestant:
    """Return the small proxy that has a thread for each connection."""

    def command(folder: Path) -> list[str]:
        (folder / "tinyproxy.conf").write_text(TINYPROXY)
        return ["tinyproxy", "-d", "-c", str(folder / "tinyproxy.conf")]

    return Contestant("tinyproxy", command, {}, PROXY_PORT)


def haproxy() -> Contestant:
    """Return the original's haproxy."""

    def command(folder: Path) -> list[str]:
        (folder / "haproxy.cfg").write_text(HAPROXY)
        return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]

    return Contestant("haproxy", command, {}, FORWARD_PORT)


def nginx_stream() -> Contestant:
    """Return nginx as a TCP forwarder, with one worker."""

    def command(folder: Path) -> list[str]:
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
        return ["nginx", "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]

    return Contestant("nginx stream", command, {}, FORWARD_PORT)


def http_proxy(
    rules: str = "127.0.0.0/8", name: str = "egress-router", workers: int = 1, transparent: int | None = None
) -> Contestant:
    """Return our HTTP proxy; `transparent` is the origin's port behind a transparent one."""

    def command(folder: Path) -> list[str]:
        (folder / "rules").write_text(rules)
        return [sys.executable, "-m", "egress_router", "http-proxy"]

    environment = {
        "EGRESS_HTTP_PROXY_DESTINATION_FILE": "rules",
        "EGRESS_HTTP_PROXY_PORT": str(PROXY_PORT),
        "EGRESS_HTTP_PROXY_TRANSPARENT_PORTS": f"{TRANSPARENT_PORT}:{transparent}" if transparent else "",
        **_common(workers),
    }
    return Contestant(name, command, environment, PROXY_PORT)


def dns_proxy(name: str = "egress-router", workers: int = 1) -> Contestant:
    """Return our TCP forwarder."""
    lines = f"{FORWARD_PORT} 127.0.0.1 {ORIGIN_PORT}\n{FORWARD_ECHO_PORT} 127.0.0.1 {ECHO_PORT}\n"
    environment = {"EGRESS_DNS_PROXY_DESTINATION": lines, **_common(workers)}
    return Contestant(
        name, lambda _: [sys.executable, "-m", "egress_router", "dns-proxy"], environment, FORWARD_PORT
    )


def _common(workers: int) -> dict[str, str]:
    return {
        "EGRESS_WORKERS": str(workers),
        "EGRESS_ADMIN_PORT": "0",
        "EGRESS_MAX_CONNECTIONS": "8000",
        "EGRESS_LOG_LEVEL": "error",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }


class Running:
    """A started contestant; its figures are for the whole process tree."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._pid = process.pid

    def cpu_seconds(self) -> float:
        """Return the user and system time used so far, including ended threads (proc(5), stat)."""
        ticks = 0
        for pid in _tree(self._pid):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_kib(self) -> int:
        """Return the present proportional set size."""
        total = 0
        for pid in _tree(self._pid):
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
                total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        return total


def answers(port: int, seconds: float) -> bool:
    """Return whether a contestant answers a request: listening is not enough, a supervisor does it early."""
    try:
        with socket.create_connection(("127.0.0.1", port), seconds) as client:
            client.settimeout(seconds)
            client.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
            return bool(client.recv(1))
    except OSError:
        time.sleep(0.002)
        return False


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _tree(pid: int) -> list[int]:
    pids = [pid]
    for task in _listed(Path(f"/proc/{pid}/task")):
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text(encoding="ascii").split():
                pids += _tree(int(child))
    return pids


@contextlib.contextmanager
def running(contestant: Contestant) -> Iterator[Running]:
    """Start a contestant, wait until it serves, and stop it after the block."""
    with process_of(contestant) as process:
        _await_port(process.process, contestant)
        yield process


@contextlib.contextmanager
def process_of(contestant: Contestant) -> Iterator[Running]:
    """Start a contestant, and stop it after the block."""
    with tempfile.TemporaryDirectory(prefix="bench-") as text:
        folder = Path(text)
        folder.chmod(0o755)  # squid reads its configuration as another user
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *contestant.command(folder)],
            env={**os.environ, **contestant.environment},
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield Running(process)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stderr is not None:
                process.stderr.close()


def _await_port(process: subprocess.Popen[str], contestant: Contestant) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            errors = "" if process.stderr is None else process.stderr.read()
            raise SystemExit(f"{contestant.name} ended at once: {errors}")
        if answers(contestant.port, 1.0):
            time.sleep(0.5)  # the same time for all contestants, for health checks and warm-up
            return
    raise SystemExit(f"{contestant.name} does not listen on port {contestant.port}")
