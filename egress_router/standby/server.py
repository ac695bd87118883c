"""`setup` that stays beside something else, and keeps the fence."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.service import signals
from egress_router.standby.agent import DRAIN_SECONDS
from egress_router.standby.assembly import assemble

if TYPE_CHECKING:
    from egress_router.settings.standby import StandbySettings
    from egress_router.standby.network import Stand

_log = log.get("standby")


def stay(stand: Stand, settings: StandbySettings) -> None:
    """Keep the fence until SIGTERM or SIGINT; a second one ends at once.

    Raises:
        RefusedError: a third station has the address, or the kernel refused.
    """
    agent = assemble(stand, settings)
    asked = threading.Event()

    def end(_: int, __: object) -> None:
        if asked.is_set():
            signals.ignore()
            raise SystemExit(0)
        asked.set()
        agent.leave(DRAIN_SECONDS)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    agent.start()
    agent.ended.wait()
    signals.ignore()
    if agent.failure is not None:
        raise agent.failure
