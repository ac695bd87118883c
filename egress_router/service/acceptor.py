"""Accepts connections on several listening sockets of an event loop."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

from egress_router import log

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from egress_router.metrics import Registry

# What one wake-up takes in; what is left over wakes again at once, after the other descriptors.
_BATCH = 64
# What is taken in at the end: more than an accept queue holds, so that a flood cannot put the end off.
_MAX_WAITING = 10_000
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_PAUSE_SECONDS = 0.25
_MAPPED = "::ffff:"
_PAUSES = "Times that accepting paused because descriptors or memory ran out."
_log = log.get("service")


class Pauses:
    """Counts the pauses of a data plane that accepts, and says when they begin and end."""

    def __init__(self, registry: Registry) -> None:
        self._pauses = registry.counter("accept_pauses_total", _PAUSES)

    def __call__(self, error: int) -> None:
        """Accepting pauses because of this error number; 0: it goes on."""
        if error:
            self._pauses.value += 1
            _log.warning("accepting pauses", reason=os.strerror(error))
        else:
            _log.info("accepting goes on")


class Acceptor:
    """Hands every accepted connection to `on_connection`: socket, client address, its port, listening port.

    The socket is non-blocking and without Nagle's delay. While the process has no
    descriptor left, accepting pauses: clients wait in the accept queue instead of being turned away, and the
    loop does not spin on a queue that it cannot empty.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        registry: Registry,
        on_connection: Callable[[socket.socket, str, int, int], None],
    ) -> None:
        self._loop = loop
        self._on_connection = on_connection
        self._listeners: dict[int, socket.socket] = {}
        self._paused = False
        self._retry: asyncio.TimerHandle | None = None
        self._pauses = registry.counter("accept_pauses_total", _PAUSES)

    def listen(self, listeners: Mapping[int, socket.socket]) -> None:
        """Accept on exactly these non-blocking sockets, by port; close those that are not named any more."""
        for port, listener in list(self._listeners.items()):
            if listeners.get(port) is not listener:
                self._end(port)
        for port, listener in listeners.items():
            if port not in self._listeners:
                # Accepted sockets inherit it.
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._listeners[port] = listener
                if self._retry is None:
                    self._watch(port)

    def stop(self) -> None:
        """Take in what the accept queues hold, then close the listening sockets."""
        for port in list(self._listeners):
            self._end(port)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _watch(self, port: int) -> None:
        listener = self._listeners[port]
        self._loop.add_reader(listener.fileno(), self._accept, listener, port, _BATCH)

    def _end(self, port: int) -> None:
        listener = self._listeners.pop(port)
        self._loop.remove_reader(listener.fileno())
        try:
            # No client that the kernel has let in is turned away because nobody had called accept yet.
            for _ in range(_MAX_WAITING):
                if not self._take(listener, port):
                    break
        except OSError as error:
            _log.warning("a port is closed with clients waiting", port=port, error=error.strerror)
        listener.close()

    def _accept(self, listener: socket.socket, port: int, most: int) -> None:
        try:
            while most and self._take(listener, port):
                most -= 1
        except OSError as error:
            self._pause(error)
        else:
            if self._paused:
                self._paused = False
                _log.info("accepting goes on")

    def _take(self, listener: socket.socket, port: int) -> bool:
        """Take in one connection; False when there is none. Raises OSError when resources ran out."""
        try:
            sock, address = listener.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _EXHAUSTED:
                raise
            # The connection died in the queue, or a firewall refused it: accept(2) says to go on.
            return True
        sock.setblocking(False)
        host: str = address[0]
        client = host[len(_MAPPED) :] if host.startswith(_MAPPED) and "." in host else host
        self._on_connection(sock, client, address[1], port)
        return True

    def _pause(self, error: OSError) -> None:
        if not self._paused:
            self._paused = True
            self._pauses.value += 1
            _log.warning("accepting pauses", reason=error.strerror)
        if self._retry is None:
            for listener in self._listeners.values():
                self._loop.remove_reader(listener.fileno())
            self._retry = self._loop.call_later(_PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        """Accept again; the pause is over when a whole wake-up meets no shortage."""
        self._retry = None
        for port in self._listeners:
            self._watch(port)
