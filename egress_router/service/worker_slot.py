"""One slot of the pool: the worker process that is in it now, and when another one may start there."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.service.control import MAX_DESCRIPTORS, Listeners

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Mapping

    from egress_router.metrics import Snapshot
    from egress_router.service.control import Channel, Serve, ToWorker
    from egress_router.service.mode import Json

_FIRST_DELAY, _LONGEST_DELAY = 0.1, 10.0  # seconds before a dead worker's replacement starts
_SETTLED_SECONDS = 60.0  # a worker that lived this long did not die because of its start
_log = log.get("service")


@dataclass(slots=True)
class WorkerSlot:
    """One worker's slot, and the process that is in it now (`pid` 0: none)."""

    index: int
    pid: int = 0
    channel: Channel | None = None
    started: float = 0.0  # monotonic
    serves: bool = False
    delay: float = _FIRST_DELAY
    snapshot: Snapshot = field(default_factory=dict)

    def send(self, message: ToWorker, sockets: Mapping[int, socket.socket] | None = None) -> None:
        """Send a message to the worker, if there is one; one that names ports goes with their sockets."""
        if self.channel is None:
            return
        ports = message.ports if isinstance(message, Listeners) else ()
        self.channel.send(message, [sockets[port].fileno() for port in ports] if sockets else ())

    def hand_over(self, rules: Serve, new_ports: Iterable[int], sockets: Mapping[int, socket.socket]) -> None:
        """Give the worker the sockets of new ports, in batches that the kernel accepts, then the rules."""
        ports = sorted(new_ports)
        try:
            for start in range(0, len(ports), MAX_DESCRIPTORS):
                self.send(Listeners(tuple(ports[start : start + MAX_DESCRIPTORS])), sockets)
        except OSError as error:
            # It reads too slowly, and the sockets cannot be queued. It must not go on with other rules.
            _log.error(
                "worker does not take its sockets and is ended", worker=self.index, reason=error.strerror
            )
            self.kill()
        else:
            self.send(rules)

    def kill(self) -> None:
        """End the worker at once."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)

    def next_delay(self) -> float:
        """Return the seconds to wait before the next start; they double each time, up to a maximum."""
        seconds = self.delay
        self.delay = min(seconds * 2, _LONGEST_DELAY)
        return seconds

    def settle(self, now: float) -> None:
        """Go back to the shortest wait if the worker that died had lived long enough."""
        if now - self.started >= _SETTLED_SECONDS:
            self.delay = _FIRST_DELAY

    def shown(self, now: float) -> Json:
        """Return the slot for `/status`."""
        return {
            "index": self.index,
            "pid": self.pid or None,
            "serves": self.serves,
            "seconds": round(now - self.started) if self.pid else None,
        }
