"""Where the other processes of the pod ask how the router stands. A thin shell.

An abstract UNIX socket: it belongs to the network namespace, so all containers of the pod reach it, and no
other pod does; no volume is needed.
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
_WORD_SECONDS = 0.005  # a caller sends its word at once when it connects


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
                "another setup with EGRESS_STANDBY=on runs in this pod", "run only one in a pod"
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
        """Answer who is waiting; whether one of them asked this router to hand over."""
        is_asked = False
        for _ in range(_MAX_A_TURN):
            try:
                caller, _ = self._socket.accept()
            except OSError:
                break
            with caller, contextlib.suppress(OSError):
                caller.settimeout(_WORD_SECONDS)
                caller.send(line().encode())
                if caller.recv(64) == HAND_OVER:
                    is_asked = True
                    caller.send(HAND_OVER)  # else it asks again
        return is_asked
