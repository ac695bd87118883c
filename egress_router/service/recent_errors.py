"""The last warnings and errors of this process, for `/status` and the page."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from egress_router import log

if TYPE_CHECKING:
    from egress_router.service.mode import Json

MAX_ERRORS: Final = 20
_MAX_TEXT = 500  # characters


class RecentErrors:
    """Keeps a bounded number of them, each of bounded length."""

    def __init__(self) -> None:
        self._kept: deque[dict[str, Json]] = deque(maxlen=MAX_ERRORS)

    def note(self, record: logging.LogRecord) -> None:
        """Keep a record if it is a warning or an error."""
        if record.levelno >= logging.WARNING:
            text = log.without_time(record)
            shown = text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} … (the rest is in the log)"
            level = record.levelname.lower()
            self._kept.append({"time": record.created, "level": level, "text": shown})

    def forget(self) -> None:
        """Clear the list: a worker is a fork of its supervisor, which reports its errors itself."""
        self._kept.clear()

    def shown(self) -> list[Json]:
        """Return them as `/status` shows them, oldest first."""
        return list(self._kept)


# One for the process, as its log is.
RECENT: Final = RecentErrors()
