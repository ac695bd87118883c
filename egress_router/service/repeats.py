"""A rate limit for repeated warnings: one line, then a count every ten seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router import log

if TYPE_CHECKING:
    import logging

_SECONDS = 10.0
_MAX_KINDS = 1000  # warnings may hold text that a peer chose, so their number needs a bound


@dataclass(slots=True)
class _Seen:
    until: float
    last: logging.LogRecord
    count: int = 0


class Repeats:
    """Lets the first of identical records pass and counts the others until `summaries` reports them."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._seen: dict[tuple[str, str, str], _Seen] = {}
        self._pending = 0

    @property
    def pending(self) -> bool:
        """Whether records were held back that no line reports yet."""
        return self._pending > 0

    def admit(self, record: logging.LogRecord) -> bool:
        """Return whether this record is to be written now."""
        key = log.identity(record)
        seen = self._seen.get(key)
        if seen is not None and (seen.count or record.created < seen.until):
            self._pending += not seen.count
            seen.count += 1
            seen.last = record
            return False
        if seen is None and len(self._seen) >= _MAX_KINDS:
            self._pending -= bool(self._seen.pop(next(iter(self._seen))).count)
        self._seen[key] = _Seen(record.created + self._seconds, record)
        return True

    def summaries(self, now: float) -> list[logging.LogRecord]:
        """Return the last record of each kind whose time is over; its field `repeated` says how many came."""
        due = []
        for key, seen in list(self._seen.items()):
            if seen.until > now:
                continue
            if not seen.count:
                del self._seen[key]
                continue
            log.add_field(seen.last, "repeated", seen.count)
            due.append(seen.last)
            self._seen[key] = _Seen(now + self._seconds, seen.last)
            self._pending -= 1
        return due
