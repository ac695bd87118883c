"""Counts and logs when the data plane cannot accept because descriptors or memory have run out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from egress_router import log

if TYPE_CHECKING:
    from egress_router.metrics import Registry

_MEANING = "Times that accepting paused because descriptors or memory ran out."
_log = log.get("service")


class AcceptPauses:
    """Counts pauses, and logs when they begin and end."""

    def __init__(self, registry: Registry) -> None:
        self._pauses = registry.counter("accept_pauses_total", _MEANING)

    def __call__(self, error: int) -> None:
        """Note that accepting pauses because of this error number; 0: accepting goes on."""
        if error:
            self._pauses.value += 1
            _log.warning("accepting pauses", reason=os.strerror(error))
        else:
            _log.info("accepting goes on")
