"""Records of rejected connections in redirect mode, from what the kernel notes about them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.grammar.address import printed
from egress_router.kernel.nat import counters, rejections
from egress_router.records import ALLOWED, DENIED, Ids, Record
from egress_router.redirect.traffic import NO_RULE
from egress_router.service.latest_denied import LatestDenied
from egress_router.service.tasks import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.clock import Clock
    from egress_router.kernel.nat.rejections import Rejection
    from egress_router.records import RecordLog
    from egress_router.redirect.traffic import LineOf
    from egress_router.service.mode import Json

POLICY: Final = "policy"
NO_ADDRESS: Final = "no_address"
NOT_HELD: Final = "source_not_held"
_INTERVAL = 2.0  # seconds
_log = log.get("redirect")

# How many were rejected so far, and what was noted about the last of them.
Seen = tuple[int, frozenset["Rejection"]]


def read() -> Seen:
    """Read both from the kernel.

    Raises:
        RefusedError: the kernel does not let this process read them.
    """
    if not rejections.read():
        return 0, frozenset()
    # The count is read first: then everything in it has been noted, or never will be.
    counted = sum(each.denied + each.closed for each in counters.read().values())
    return counted, rejections.read()


class Rejections:
    """Writes a record for each rejected connection, and keeps the last that were denied.

    `line_of` returns the line of a protocol, family and port, `entry_of` the entry of the policy that denies.
    """

    def __init__(
        self,
        records: RecordLog,
        line_of: Callable[[str, int, int], LineOf | None],
        entry_of: Callable[[Rejection], str | None],
        clock: Clock,
    ) -> None:
        self._records = records
        self._line_of = line_of
        self._entry_of = entry_of
        self._ids = Ids()
        self._known: frozenset[Rejection] | None = None
        self._accounted = 0  # those that are known, or known to be left out
        self._denied = LatestDenied(clock)

    async def run(self) -> None:
        """Look at intervals, until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL)
            await self.look()

    async def look(self) -> None:
        """Write records of what is new; an earlier process recorded what is there at the first look."""
        try:
            self.take(*await in_daemon_thread(read))
        except RefusedError as error:
            _log.warning("no counters", error=str(error))

    def take(self, counted: int, noted: frozenset[Rejection]) -> None:
        """Take in what was noted; `counted` is how many there were, also those that were not noted."""
        if self._known is None:
            self._known, self._accounted = noted, counted
            return
        new, self._known = noted - self._known, noted
        if counted:
            left_out = counted - self._accounted - len(new)
            # Fewer than before: the kernel's counters were reset.
            self._accounted = counted if left_out > 0 else min(self._accounted + len(new), counted)
            self._records.left_out(max(0, left_out))
        for each in sorted(new, key=lambda each: (str(each.client), each.client_port)):
            self._write(each)

    def latest(self) -> list[Json]:
        """Return the last that were denied, newest first, as `/status` shows them."""
        return self._denied.shown()[::-1]

    def _write(self, rejected: Rejection) -> None:
        record = self.record(rejected)
        if record.verdict == DENIED:
            where = f"{record.protocol} port {record.local_port}"
            if rejected.is_denied:
                where = f"{printed(rejected.address, rejected.port)}/{record.protocol}"
            self._denied.note(record.client, where, record.rule, record.reason or NO_RULE)
        if self._records.wants(record.verdict):
            self._records.write(record)

    def record(self, rejected: Rejection) -> Record:
        """Return the record of a rejected connection."""
        line = self._line_of(rejected.protocol, rejected.client.version, rejected.local_port)
        record = Record(
            event="connection",
            id=self._ids.next(),
            client=str(rejected.client),
            client_port=rejected.client_port,
            local_port=rejected.local_port,
            protocol=rejected.protocol,
            name=None if line is None else line.name,
            verdict=DENIED,
            rule=None if line is None else line.text,
            reason=NO_RULE,
        )
        if rejected.is_denied:
            record.address, record.port = str(rejected.address), rejected.port
            record.rule = self._entry_of(rejected) or record.rule
            record.reason = POLICY
        elif line is not None:  # the policy allows it, but it cannot be reached at the moment
            record.verdict = ALLOWED
            record.reason = NOT_HELD if line.name is None else NO_ADDRESS
        return record
