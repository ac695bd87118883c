"""The socket on which other processes of the pod ask for the status of the router. A thin shell.

An abstract UNIX socket belongs to the network namespace: all containers of the pod reach it, no other pod
does, and no volume is needed.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Self

from egress_router.errors import RefusedError
from egress_router.service.standby_monitor import HAND_OVER, SOCKET_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_A_TURN = 16
_REQUEST_SECONDS = 0.005  # a caller sends its request at once when it connects


class StatusSocket:
    """The listening socket; each caller gets one line."""

    def __init__(self, name: str = SOCKET_NAME) -> None:
        """Open it.

        Raises:
            RefusedError: another router runs in this pod.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        try:
            self._socket.bind(name)
        except OSError:
            self._socket.close()
            raise RefusedError(
                "another setup with EGRESS_STANDBY=on runs in this pod", "run only one in each pod"
            ) from None
        self._socket.listen(_MAX_A_TURN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._socket.fileno()

    def answer(self, line: Callable[[], str]) -> bool:
        """Answer the waiting callers; return whether one of them asked this router to hand over."""
        is_asked = False
        for _ in range(_MAX_A_TURN):
            try:
                caller, _ = self._socket.accept()
            except OSError:
                break
            with caller, contextlib.suppress(OSError):
                caller.settimeout(_REQUEST_SECONDS)
                caller.send(line().encode())
                if caller.recv(64) == HAND_OVER:
                    is_asked = True
                    caller.send(HAND_OVER)  # without this answer it asks again
        return is_asked
