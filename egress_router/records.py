"""One record for each connection or request, the same in all modes: what happened to it, from where to where.

Records go to stdout. With EGRESS_ACCESS_LOG all are written. Without it only denied ones are, a limited
number each second, and the next one says how many were left out. docs/records.schema.json has all fields.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from egress_router import log
from egress_router.clock import SYSTEM

if TYPE_CHECKING:
    from egress_router.clock import Clock

ALLOWED: Final = "allowed"
DENIED: Final = "denied"
_BURST: Final = 20.0
_A_SECOND: Final = 5.0


@dataclass(slots=True, kw_only=True)
class Record:
    """What is known of a connection or request; what is None is not written.

    `id` is the same in all records of one connection or request. `address`, `port`: the destination, as it
    was dialled; `source`, `source_port`: what it saw. `sent` went to it, `received` came from it (bytes).
    """

    event: str
    id: str
    client: str
    client_port: int | None = None
    local_port: int | None = None
    protocol: str | None = None
    method: str | None = None
    name: str | None = None
    address: str | None = None
    port: int | None = None
    source: str | None = None
    source_port: int | None = None
    verdict: str | None = None
    rule: str | None = None
    reason: str | None = None
    status: int | None = None
    sent: int | None = None
    received: int | None = None
    seconds: float | None = None
    dns_seconds: float | None = None
    connect_seconds: float | None = None
    traceparent: str | None = None
    suppressed: int | None = None


NAMES: Final = tuple(each.name for each in fields(Record) if each.name != "event")
# Name, JSON type and meaning of every field; docs/operating.md and the schema are checked against it.
MEANINGS: Final[dict[str, tuple[str, str]]] = {
    "id": ("string", "the same in all records of a connection or request"),
    "client": ("string", "address of the client"),
    "client_port": ("integer", "port of the client"),
    "local_port": ("integer", "port of the router that the client came to"),
    "protocol": ("string", "`tcp`, `udp` or `sctp`, in redirect mode"),
    "method": ("string", "method of an HTTP request"),
    "name": ("string", "name of the destination, as the client or the line has it"),
    "address": ("string", "address of the destination"),
    "port": ("integer", "port of the destination"),
    "source": ("string", "source address that the destination saw"),
    "source_port": ("integer", "source port that the destination saw"),
    "verdict": ("string", "`allowed`, `denied`, `reported`, `refused` or `undecided`"),
    "rule": ("string", "text of the rule or line that decided"),
    "reason": ("string", "why it was decided so, or why it ended"),
    "status": ("integer", "status of the HTTP answer; 0: there was none"),
    "sent": ("integer", "bytes to the destination"),
    "received": ("integer", "bytes from the destination"),
    "seconds": ("number", "from its beginning to its end"),
    "dns_seconds": ("number", "how long it waited for names"),
    "connect_seconds": ("number", "how long it took to connect, in the proxies"),
    "traceparent": ("string", "the client's field of that name (W3C Trace Context)"),
    "suppressed": ("integer", "denied ones that were left out before this one"),
}


class Ids:
    """Makes ids that no other process uses: a random number for this process, and a count."""

    def __init__(self) -> None:
        self._prefix = os.urandom(5).hex()
        self._count = itertools.count(1)

    def next(self) -> str:
        """Return the next id."""
        return self.of(next(self._count))

    def of(self, number: int) -> str:
        """Return the id of something that has a number of its own in this process."""
        return f"{self._prefix}-{number:x}"


class RecordLog:
    """Writes records: all, or only the denied ones, and of those a limited number each second."""

    def __init__(self, *, everything: bool, clock: Clock = SYSTEM) -> None:
        self.everything = everything
        self._clock = clock
        self._records = log.records()
        self._allowance = _BURST
        self._counted = clock.monotonic()
        self._suppressed = 0

    def wants(self, verdict: str | None) -> bool:
        """Return whether a record with this verdict may be written; to be asked before one is made."""
        return self.everything or verdict == DENIED

    def left_out(self, count: int) -> None:
        """Note that there were `count` more, of which nothing is known; the next record says so."""
        self._suppressed += count

    def write(self, record: Record) -> None:
        """Write a record if the settings ask for it."""
        if not self.everything:
            if record.verdict != DENIED:
                return
            if not self._may_write():
                self._suppressed += 1
                return
        record.suppressed, self._suppressed = self._suppressed or None, 0
        values = {name: value for name in NAMES if (value := getattr(record, name)) is not None}
        self._records.info(record.event, **values)

    def _may_write(self) -> bool:
        now = self._clock.monotonic()
        self._allowance = min(_BURST, self._allowance + (now - self._counted) * _A_SECOND)
        self._counted = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True
