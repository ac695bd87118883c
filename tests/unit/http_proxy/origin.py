"""What the tests of the proxy stand on: origins that record bytes, a raw client, and the proxy between them."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import re
import socket
import sys
import termios
import threading
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self

from egress_router.http_proxy import server
from egress_router.settings.http_proxy import read_http_proxy
from egress_router.settings.policy import joined
from tests.serving import serving
from tests.unit.http_proxy.names import InUse
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from egress_router.grammar.acl import AccessList
    from egress_router.http_proxy.server import Dependencies
    from egress_router.http_proxy.worker_state import WorkerState
    from egress_router.settings.policy import Guarded
    from tests.serving import Running

LOOPBACK = "127.0.0.0/8\n::1\n"


@dataclass
class Peer:
    """One accepted connection of an origin; `received` is every byte that came over it."""

    sock: socket.socket
    received: bytes = b""
    ended: threading.Event = field(default_factory=threading.Event)

    def read(self) -> bytes:
        data = self.sock.recv(65536)
        self.received += data
        return data

    def read_until(self, end: bytes) -> bytes:
        """Read until what came since the last call holds `end`; return it, or b"" at the end of the stream."""
        start = len(self.received)
        while end not in self.received[start:]:
            if not self.read():
                return b""
        return self.received[start:]

    def read_to_the_end(self) -> None:
        while self.read():
            pass

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)


class Origin:
    """Listens on a loopback address, on any port or a certain one, and runs a script for each connection."""

    def __init__(self, script: Callable[[Peer], None], host: str = "127.0.0.1", port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family)
        self._script = script
        self.port: int = self._listener.getsockname()[1]
        self.host = f"[{host}]" if ":" in host else host
        self.peers: list[Peer] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def received(self) -> bytes:
        return b"".join(peer.received for peer in self.peers)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self.peers:
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_SECONDS)
        for peer in self.peers:
            peer.sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(WAIT_SECONDS)
            peer = Peer(sock)
            self.peers.append(peer)
            thread = threading.Thread(target=self._serve, args=(peer,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer: Peer) -> None:
        with contextlib.suppress(OSError):
            self._script(peer)
        with contextlib.suppress(OSError):
            peer.sock.shutdown(socket.SHUT_RDWR)
        peer.sock.close()
        peer.ended.set()


@contextlib.contextmanager
def origin(script: Callable[[Peer], None], host: str = "127.0.0.1", port: int = 0) -> Iterator[Origin]:
    made = Origin(script, host, port)
    try:
        yield made
    finally:
        made.close()


def answering(*answers: bytes) -> Callable[[Peer], None]:
    """A script that reads a head for each answer, sends it, and then waits for the end of the stream."""

    def script(peer: Peer) -> None:
        for answer in answers:
            if not peer.read_until(b"\r\n\r\n"):
                return
            peer.send(answer)
        peer.read_to_the_end()

    return script


def closing(answer: bytes) -> Callable[[Peer], None]:
    """A script that reads a head, answers and closes."""

    def script(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        peer.send(answer)

    return script


def echo(peer: Peer) -> None:
    while data := peer.read():
        peer.send(data)


OK = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok"


def forbidden(peer: Peer) -> None:
    """An origin that answers whatever comes, so that a second, smuggled request would be answered, too."""
    while peer.read_until(b"\r\n\r\n"):
        peer.send(OK)


def unacknowledged(sock: socket.socket) -> int:
    """Return how many bytes the other side's kernel has not acknowledged yet (SIOCOUTQ, tcp(7))."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


class Client:
    """A raw connection to the proxy; `receives` bytes at most wait here to be read."""

    def __init__(self, port: int, *, receives: int | None = None) -> None:
        with contextlib.ExitStack() as unconnected:
            self.sock = unconnected.enter_context(socket.socket())
            if receives is not None:  # from the handshake on: a window that was given does not shrink
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
            self.sock.settimeout(WAIT_SECONDS)
            self.sock.connect(("127.0.0.1", port))
            unconnected.pop_all()
        self.buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes | str) -> None:
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def delivered(self) -> None:
        """Wait until what was sent is with the other side's kernel."""
        until(lambda: unacknowledged(self.sock) == 0)

    def end(self) -> None:
        with contextlib.suppress(OSError):  # the proxy may have reset it already
            self.sock.shutdown(socket.SHUT_WR)

    def more(self) -> bool:
        data = self.sock.recv(65536)
        self.buffer += data
        return bool(data)

    def rest(self) -> bytes:
        """Return everything until the end of the stream."""
        while self.more():
            pass
        data, self.buffer = self.buffer, b""
        return data

    def take(self, size: int) -> bytes:
        while len(self.buffer) < size:
            if not self.more():
                raise EOFError(self.buffer)
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def head(self) -> str:
        while b"\r\n\r\n" not in self.buffer:
            if not self.more():
                raise EOFError(self.buffer)
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head.decode("latin-1")

    def answer(self) -> tuple[str, bytes]:
        """Return the next head, and its body by Content-Length."""
        head = self.head()
        length = re.search(r"(?im)^content-length: *(\d+)", head)
        return head, self.take(int(length[1])) if length else b""


def _noted(faults: list[object], _loop: object, context: object) -> None:
    faults.append(context)


@contextlib.contextmanager
def proxy(
    rules: str = LOOPBACK, *, policy: str | None = None, loop: str = "own", most: int = 10_000, per_client: int | None = None,
    drain_seconds: float = 25.0, faulty: bool = False, needs: Dependencies = server.REAL, access_log: str = "1",
    sources: str = "", **settings: str,
) -> Iterator[tuple[Running[Guarded[AccessList]], int]]:  # fmt: skip
    """Serve these rules; settings are variables without their prefix EGRESS_HTTP_PROXY_, or EGRESS_.

    `faulty` says whether there will be faults of the proxy's own. `sources` are addresses that EGRESS_SOURCE
    could not hold, because they are of the loopback network. `needs` is used but for its resolver, see `know`.
    """
    common = {"RELAY_BYTES"}
    environ = {
        f"EGRESS_{name}" if name in common else f"EGRESS_HTTP_PROXY_{name}": value
        for name, value in settings.items()
    }
    # A limit for the pod is shared by its workers, of which only one is here.
    environ |= {
        "EGRESS_HTTP_PROXY_DESTINATION": rules,
        "EGRESS_ACCESS_LOG": access_log,
        "EGRESS_WORKERS": "1",
    }
    if policy is not None:
        environ["EGRESS_POLICY"] = policy
    read = replace(read_http_proxy(environ), sources=tuple(map(ip_address, sources.split())))
    mode = server.mode(read, replace(needs, names=InUse.names))
    with serving(
        mode,
        rules if policy is None else joined(rules, policy),
        loop=loop,
        most=most,
        per_client=per_client,
        drain_seconds=drain_seconds,
    ) as running:
        faults: list[object] = []
        handler = functools.partial(_noted, faults)
        running.call(lambda: running.context.loop.set_exception_handler(handler))
        yield running, next(iter(running.ports.values()))
        assert bool(faults) is faulty, faults


def sent_at_once(running: Running[Guarded[AccessList]], port: int, data: bytes | str) -> Client:
    """Connect and send in one turn of the proxy's loop: its time for the client begins with both there.

    However busy this machine is, a short time-out is not over before a test has sent anything.
    """

    def send() -> Client:
        client = Client(port)
        client.send(data)
        return client

    return running.call(send)


def worker_of(running: Running[Guarded[AccessList]]) -> WorkerState:
    """Return what the connections of a proxy share."""
    assert isinstance(running.server, server.HttpProxyServer)
    return running.server.worker


def counted(running: Running[Guarded[AccessList]], name: str, **labels: str) -> float:
    """Return a counter, added up over the labels that are not given."""
    snapshot = running.call(running.context.registry.snapshot)
    if name not in snapshot:
        return 0
    return sum(value for found, value in snapshot[name].numbers.items() if set(labels.items()) <= set(found))
