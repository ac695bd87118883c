"""Whether this pod is the active one of its group, asked of the process that keeps its fence."""

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
_SILENCE = 2.0  # seconds without an answer after which the process has gone
_ATTEMPTS = 20  # to be heard
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
    """What that process says; a pod that has none is no router of a group, and always the active one."""

    def __init__(self) -> None:
        self._said: dict[str, Json] | None = None
        self._heard = 0.0

    async def watch(self) -> None:
        """Keep what is known up to date."""
        while True:
            try:
                said = await in_daemon_thread(ask)
            except RefusedError as error:
                _log.warning("the process that keeps the fence is not asked", error=str(error))
            else:
                self.take(said, asyncio.get_running_loop().time())
            await asyncio.sleep(_INTERVAL)

    def take(self, said: dict[str, Json] | None, now: float) -> None:
        """Take in an answer, or that there was none."""
        if said is not None:
            self._said, self._heard = said, now
        elif self._said is not None and now > self._heard + _SILENCE:
            self._said = {"problems": ["the process that keeps the fence does not answer"]}

    def describe(self, registry: Registry) -> None:
        """Add the metrics of a group, for pods that have one."""

        def refresh() -> None:
            said = self._said
            if said is None:
                return
            registry.flag("standby_active", _ACTIVE).value = int(said.get("role") == "active")
            peers = said.get("peers")
            registry.gauge("standby_peers", _PEERS).value = len(peers) if isinstance(peers, list) else 0
            for name, meaning, key in _COUNTS:
                count = said.get(key)
                if isinstance(count, int):
                    registry.counter(name, meaning).value = count
            took = said.get("took")
            if isinstance(took, float):
                registry.gauge("standby_take_over_seconds", _TOOK).value = took

        registry.before_snapshot(refresh)

    def hand_over(self) -> None:
        """Tell that process that this one ends: another pod should take over now, where one can."""
        if self._said is not None:
            try:
                threading.Thread(target=hand_over, name="hand over", daemon=True).start()
            except RuntimeError as error:  # the kernel refuses a thread; this process ends all the same
                _log.warning("no hand-over is asked for", error=str(error))

    def problems(self) -> tuple[str, ...]:
        """Return why this pod is not the active one; nothing where it is, or has no group."""
        said = None if self._said is None else self._said.get("problems")
        return tuple(str(each) for each in said) if isinstance(said, list) else ()

    def status(self) -> Json:
        """Return the same for people; None where the pod has no group."""
        return cast("Json", self._said)


def is_good_standby(problem: str) -> bool:
    """Say whether this reason not to be ready means only that another pod of the group is the active one."""
    return problem.startswith(STANDING_BY) and HELD_BY in problem


def ask(name: str = SOCKET_NAME) -> dict[str, Json] | None:
    """Return what the process says now; None where there is none, or it is busy."""
    with contextlib.suppress(OSError, ValueError), _conversation(name, b"?") as sock:
        said = json.loads(sock.recv(_MAX_BYTES))
        return cast("dict[str, Json]", said) if isinstance(said, dict) else None
    return None


def hand_over(name: str = SOCKET_NAME) -> bool:
    """Ask the process to hand over until it has heard it; whether it has.

    It waits for the request only a few milliseconds; on a busy node this process may need longer to send it.
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
