"""Listening sockets: one for each port and worker, owned by the supervisor."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from egress_router.errors import RefusedError
from egress_router.service.reuseport import choose_by_client

if TYPE_CHECKING:
    from collections.abc import Mapping

_BACKLOG = 4096  # the kernel lowers it to net.core.somaxconn
_PORT_START = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


class Bind(Protocol):
    """How a listening socket is made: by `bound_to`, or by a stand-in for a kernel that has less."""

    def __call__(self, family: socket.AddressFamily, host: str, port: int, *, shared: bool) -> socket.socket:
        """See `bound_to`."""


def bound_to(family: socket.AddressFamily, host: str, port: int, *, shared: bool) -> socket.socket:
    """Return a socket that listens there; `shared`: others may, too. Raises OSError if that fails."""
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Accepted sockets inherit it, even those that were queued before the first accept.
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.bind((host, port))
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made


class Listening:
    """The sockets of all ports in use; they stay open here, so a dead worker's accept queue is not lost."""

    def __init__(self, workers: int, *, by_client: bool, bind: Bind = bound_to) -> None:
        self._workers = workers
        self._bind = bind
        self._by_client = by_client
        self._by_port: dict[int, tuple[socket.socket, ...]] = {}

    def change(self, ports: frozenset[int]) -> frozenset[int]:
        """Listen on exactly these ports; return those that are new.

        Raises:
            RefusedError: one of them is not available; then nothing has changed.
        """
        added: dict[int, tuple[socket.socket, ...]] = {}
        try:
            for port in sorted(ports - self._by_port.keys()):
                added[port] = listen(port, self._workers, by_client=self._by_client, bind=self._bind)
        except RefusedError:
            _close(added)
            raise
        _close({port: self._by_port.pop(port) for port in self._by_port.keys() - ports})
        self._by_port |= added
        return frozenset(added)

    def of_worker(self, index: int) -> dict[int, socket.socket]:
        """Return the sockets of one worker, by port."""
        return {port: sockets[index] for port, sockets in self._by_port.items()}

    def close(self) -> None:
        """Close everything."""
        _close(self._by_port)
        self._by_port = {}


def listen(
    port: int, copies: int, *, by_client: bool = False, bind: Bind = bound_to
) -> tuple[socket.socket, ...]:
    """Return sockets that listen on all addresses of a port, IPv6 too where the kernel has it.

    Several copies share the port by SO_REUSEPORT, one queue each; the kernel chooses one for each connection,
    with `by_client` the same for all connections of a client. A first socket without SO_REUSEPORT makes sure
    that no other process has the port: else two routers of one user would silently share their clients.

    Raises:
        RefusedError: the port is taken or not allowed.
    """
    first = _bound(bind, port, shared=False)
    if copies == 1:
        made = [first]
    else:
        first.close()
        made = []
        try:
            for _ in range(copies):
                made.append(_bound(bind, port, shared=True))
            if by_client:
                choose_by_client(made[0], copies)
        except (RefusedError, OSError) as error:
            for each in made:
                each.close()
            if isinstance(error, OSError):
                raise RefusedError("cannot share connections out by client", "use EGRESS_WORKERS=1") from None
            raise
    return tuple(made)


def _bound(bind: Bind, port: int, *, shared: bool) -> socket.socket:
    try:
        return bind(socket.AF_INET6, "::", port, shared=shared)
    except OSError as error:
        if error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
            raise RefusedError(f"cannot listen on port {port} ({_reason(error)})", _remedy(error)) from None
    try:
        return bind(socket.AF_INET, "0.0.0.0", port, shared=shared)  # noqa: S104 (every address is the job)
    except OSError as error:
        raise RefusedError(f"cannot listen on port {port} ({_reason(error)})", _remedy(error)) from None


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def _remedy(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another process of this pod listens there; stop it or choose another port"
    if error.errno in {errno.EACCES, errno.EPERM}:
        try:
            start = _PORT_START.read_text(encoding="ascii").strip()
        except OSError:
            start = "1024"
        return (
            f"ports below {start} need the sysctl net.ipv4.ip_unprivileged_port_start=0"
            " (securityContext.sysctls of the pod), or the capability NET_BIND_SERVICE"
        )
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return "raise the limit of open files (ulimit -n, LimitNOFILE)"
    return "see `ip address` and the limits of the pod"


def _close(by_port: Mapping[int, tuple[socket.socket, ...]]) -> None:
    for sockets in by_port.values():
        for each in sockets:
            each.close()
