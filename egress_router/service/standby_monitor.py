"""Asks the process that keeps the fence whether this pod is the active one of its group."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING, cast

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.service.tasks import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.metrics import Registry
    from egress_router.service.mode import Json

SOCKET_NAME = "\0egress-router-standby"
HAND_OVER = b"hand over"
STANDING_BY = "standing by; "
HELD_BY = " is held by "
_INTERVAL = 0.25  # seconds
_SILENCE = 2.0  # seconds without an answer after which the process counts as gone
_ATTEMPTS = 20  # to get a hand-over request heard
_MAX_BYTES = 65536
_ACTIVE = "1 where this pod is the active one of those that share its source address."
_PEERS = "Other routers of the group that are heard."
_TOOK = "From the last sign of the former active router to the last take-over."
_COUNTS = (
    ("standby_take_overs_total", "How often this router became active.", "take_overs"),
    ("standby_losses_total", "How often this router was active and lost its right to be.", "losses"),
)

_log = log.get("service")


class StandbyMonitor:
    """What that process says; a pod without one belongs to no group, and is always active."""

    def __init__(self) -> None:
        self._answer: dict[str, Json] | None = None
        self._heard = 0.0

    async def watch(self) -> None:
        """Keep what is known up to date."""
        while True:
            try:
                answer = await in_daemon_thread(ask)
            except RefusedError as error:
                _log.warning("the process that keeps the fence is not asked", error=str(error))
            else:
                self.take(answer, asyncio.get_running_loop().time())
            await asyncio.sleep(_INTERVAL)

    def take(self, answer: dict[str, Json] | None, now: float) -> None:
        """Note an answer, or that there was none."""
        if answer is not None:
            self._answer, self._heard = answer, now
        elif self._answer is not None and now > self._heard + _SILENCE:
            self._answer = {"problems": ["the process that keeps the fence does not answer"]}

    def describe(self, registry: Registry) -> None:
        """Add the metrics of a group, for pods that have one."""

        def refresh() -> None:
            answer = self._answer
            if answer is None:
                return
            registry.flag("standby_active", _ACTIVE).value = int(answer.get("role") == "active")
            peers = answer.get("peers")
            registry.gauge("standby_peers", _PEERS).value = len(peers) if isinstance(peers, list) else 0
            for name, meaning, key in _COUNTS:
                count = answer.get(key)
                if isinstance(count, int):
                    registry.counter(name, meaning).value = count
            took = answer.get("took")
            if isinstance(took, float):
                registry.gauge("standby_take_over_seconds", _TOOK).value = took

        registry.before_snapshot(refresh)

    def hand_over(self) -> None:
        """Tell that process that this one ends: another pod should take over now, if one can."""
        if self._answer is not None:
            try:
                threading.Thread(target=hand_over, name="hand over", daemon=True).start()
            except RuntimeError as error:  # the kernel refuses a thread; this process ends all the same
                _log.warning("no hand-over is asked for", error=str(error))

    def problems(self) -> tuple[str, ...]:
        """Return why this pod is not the active one; empty if it is, or has no group."""
        reasons = None if self._answer is None else self._answer.get("problems")
        return tuple(str(each) for each in reasons) if isinstance(reasons, list) else ()

    def status(self) -> Json:
        """Return the process's last answer for `/status`; None if the pod has no group."""
        return cast("Json", self._answer)


def is_good_standby(problem: str) -> bool:
    """Return whether this reason not to be ready means only that another pod of the group is active."""
    return problem.startswith(STANDING_BY) and HELD_BY in problem


def ask(name: str = SOCKET_NAME) -> dict[str, Json] | None:
    """Return what the process says now; None if there is none, or it is busy."""
    with contextlib.suppress(OSError, ValueError), _conversation(name, b"?") as sock:
        answer = json.loads(sock.recv(_MAX_BYTES))
        return cast("dict[str, Json]", answer) if isinstance(answer, dict) else None
    return None


def hand_over(name: str = SOCKET_NAME) -> bool:
    """Ask the process to hand over until it confirms that it has heard it; return whether it did.

    It waits only a few milliseconds for the request; on a busy node this process may take longer to send it.
    """
    return any(_is_heard(name) for _ in range(_ATTEMPTS))


def _is_heard(name: str) -> bool:
    with contextlib.suppress(OSError), _conversation(name, HAND_OVER) as sock:
        sock.recv(_MAX_BYTES)
        return sock.recv(_MAX_BYTES) == HAND_OVER
    return False


@contextlib.contextmanager
def _conversation(name: str, word: bytes) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(0.1)
        sock.connect(name)
        sock.send(word)
        yield sock
