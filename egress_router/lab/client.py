"""A client of a router pair for as long as the laboratory lives, and what it missed in a time."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

    from egress_router.lab.pair import Pair

EVERY, CONNECT_SECONDS = 0.01, 0.15  # seconds between two connections of the client, and for one of them
_CONTROL = "127.0.0.1"
_START_SECONDS = 60


class Client:
    """Connects every moment through each pod, and to a server of its own host.

    The second shows what the machine itself was held up by: a connection that no router had a part in.
    """

    def __init__(self, pair: Pair, every: float = EVERY) -> None:
        server = pair.client.start([sys.executable, "-m", "egress_router.lab.server", "80"])
        if server.stdout is None or server.stdout.readline() != "ready\n":
            raise RuntimeError("the client's own server did not start")
        words = [str(every), str(CONNECT_SECONDS), _CONTROL, *(side.address for side in pair.sides)]
        self._process = pair.client.start([sys.executable, "-m", "egress_router.lab.knock", *words])
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
        """Forget what was."""
        self._answered.clear()
        self._control.clear()

    def missed(self, since: float, until: float) -> tuple[float, float]:
        """Return the longest time without an answer through a router, and from the host's own server."""
        return _longest(self._answered, since, until), _longest(self._control, since, until)


def _longest(answered: list[float], since: float, until: float) -> float:
    within = sorted(each for each in answered if since <= each <= until)
    return max(after - before for before, after in itertools.pairwise([since, *within, until]))
