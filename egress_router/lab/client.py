"""A client that connects through a router pair all the time, and the gaps in which it got no answer."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

    from egress_router.lab.pair import Pair

EVERY, CONNECT_SECONDS = 0.01, 0.15  # seconds between two connections, and timeout of each
_CONTROL = "127.0.0.1"
_START_SECONDS = 60


class Client:
    """Connects again and again through each pod, and to a server on its own host.

    No router takes part in the second: gaps there are delays of the machine itself.
    """

    def __init__(self, pair: Pair, every: float = EVERY) -> None:
        server = pair.client.start([sys.executable, "-m", "egress_router.lab.server", "80"])
        if server.stdout is None or server.stdout.readline() != "ready\n":
            raise RuntimeError("the client's own server did not start")
        arguments = [str(every), str(CONNECT_SECONDS), _CONTROL, *(side.address for side in pair.sides)]
        self._process = pair.client.start(
            [sys.executable, "-m", "egress_router.lab.connect_loop", *arguments]
        )
        self._answered: list[float] = []
        self._control: list[float] = []
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._control:
            if time.monotonic() > deadline:
                raise RuntimeError("the client did not start")
            time.sleep(0.02)

    def _read(self, process: subprocess.Popen[str]) -> None:
        if process.stdout is not None:
            for line in process.stdout:
                address, begun = line.split()
                (self._control if address == _CONTROL else self._answered).append(float(begun))

    def forget(self) -> None:
        """Discard the answers so far."""
        self._answered.clear()
        self._control.clear()

    def missed(self, since: float, until: float) -> tuple[float, float]:
        """Return the longest gaps between answers in seconds: through a router, and from the own server."""
        return _longest(self._answered, since, until), _longest(self._control, since, until)


def _longest(answered: list[float], since: float, until: float) -> float:
    within = sorted(each for each in answered if since <= each <= until)
    return max(after - before for before, after in itertools.pairwise([since, *within, until]))
