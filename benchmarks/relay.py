"""What the TCP forwarder costs beside HAProxy: CPU a connection, CPU a GiB, memory of an idle connection.

`python -m benchmarks.relay` prints the results of one run. CPU time is the proxy process's own, from
/proc/PID/stat, so it does not depend on the speed of the load generator; only the ratios count.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import uvloop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

ORIGIN, ROUTER, HAPROXY = 18080, 18081, 18082
CONNECTIONS = 20_000
AT_ONCE = 64
IDLE = 4_000
GIB = 1 << 30
BULK = 2 * GIB
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n" + b"x" * 100
CONFIG = """
global
  maxconn 9000
  nbthread 1
defaults
  mode tcp
  maxconn 9000
  retries 3
  timeout connect 10s
  timeout client 1m
  timeout server 1m
frontend in
  bind 127.0.0.1:{listen}
  default_backend out
backend out
  server origin 127.0.0.1:{origin} check inter 2s
"""


class Origin(asyncio.Protocol):
    """Answers a request and closes; sends `BULK` bytes for `bulk`; holds the connection for `idle`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.left = BULK
        self.block = bytes(1 << 20)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET"):
            self.transport.write(ANSWER)
            self.transport.close()
        elif data == b"bulk":
            self.resume_writing()
        else:
            self.transport.write(data)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        while self.left and not self.paused:
            self.transport.write(self.block)
            self.left -= len(self.block)
        if not self.left:
            self.transport.close()


async def origin() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Origin, "127.0.0.1", ORIGIN, backlog=4096)
    await server.serve_forever()


async def router() -> None:
    """Serve one line, as a worker does."""
    from egress_router.dns_proxy.server import mode  # noqa: PLC0415
    from egress_router.metrics import Registry  # noqa: PLC0415
    from egress_router.relay.poller import Poller  # noqa: PLC0415
    from egress_router.service.admission import Admission  # noqa: PLC0415
    from egress_router.service.mode import WorkerContext  # noqa: PLC0415
    from egress_router.settings.dns_proxy import read_dns_proxy  # noqa: PLC0415

    text = f"{ROUTER} 127.0.0.1 {ORIGIN}"
    made = mode(read_dns_proxy({"EGRESS_DNS_PROXY_DESTINATION": text}))
    loop, registry = asyncio.get_running_loop(), Registry()
    context = WorkerContext(loop, Poller(loop), registry, Admission(registry, 100_000, None), 25.0)
    server = made.build(context, made.parse("BENCHMARK", text))
    listener = socket.create_server(("127.0.0.1", ROUTER), backlog=4096)
    listener.setblocking(False)
    server.listen({ROUTER: listener})
    await asyncio.Event().wait()


async def churn(port: int) -> None:
    """Open `CONNECTIONS` connections, `AT_ONCE` at a time; each asks, reads the answer and its end."""
    left = iter(range(CONNECTIONS))

    async def work() -> None:
        loop = asyncio.get_running_loop()
        for _ in left:
            with socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, ("127.0.0.1", port))
                await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\n\r\n")
                received = 0
                while part := await loop.sock_recv(sock, 4096):
                    received += len(part)
                assert received == len(ANSWER)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


def bulk(port: int) -> None:
    buffer = bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"bulk")
        received = 0
        while count := sock.recv_into(buffer):
            received += count
    assert received == BULK


def round_trip(port: int, times: int = 20_000) -> float:
    """Return the seconds of one small message there and back in an open connection."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begun = time.perf_counter()
        for _ in range(times):
            sock.sendall(b"ping")
            sock.recv(4)
        return (time.perf_counter() - begun) / times


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    found = re.search(r"Pss: +(\d+) kB", text)
    assert found is not None
    return int(found[1]) * 1024


def idle(pid: int, port: int) -> float:
    """Return the bytes that one idle connection adds to the proxy's memory."""
    before = memory(pid)
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            sock.sendall(b"hello")
            sock.recv(5)
        return (memory(pid) - before) / IDLE


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[int]:
    process = subprocess.Popen(command)
    try:
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def measure(name: str, command: list[str], port: int) -> None:
    with running(command, port) as pid:
        each = idle(pid, port)
        begun = cpu(pid)
        uvloop.run(churn(port))
        connection = (cpu(pid) - begun) / CONNECTIONS
        begun = cpu(pid)
        bulk(port)
        gib = (cpu(pid) - begun) / (BULK / GIB)
        turn = round_trip(port)
    print(
        f"{name:8} {connection * 1e6:7.0f} us a connection  {gib:6.2f} s a GiB  "
        f"{turn * 1e6:6.1f} us a round trip  {each / 1024:5.2f} KiB an idle connection",
        flush=True,
    )


def main() -> None:
    roles: dict[str, Callable[[], Awaitable[None]]] = {"origin": origin, "router": router}
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if sys.argv[1:]:
        uvloop.run(roles[sys.argv[1]]())  # type: ignore[arg-type]
        return
    here = [sys.executable, "-m", "benchmarks.relay"]
    with tempfile.TemporaryDirectory() as folder, running([*here, "origin"], ORIGIN):
        path = Path(folder) / "haproxy.cfg"
        path.write_text(CONFIG.format(listen=HAPROXY, origin=ORIGIN), encoding="ascii")
        for _ in range(3):
            measure("router", [*here, "router"], ROUTER)
            measure("haproxy", ["haproxy", "-f", str(path)], HAPROXY)


if __name__ == "__main__":
    main()
