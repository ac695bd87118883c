"""With EGRESS_ACCESS_LOG=1, a record for each redirected connection, when the kernel reports its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.kernel.flow_events import FlowEvents, keep_details
from egress_router.records import ALLOWED, Ids, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from egress_router.clock import Clock
    from egress_router.grammar.address import IPAddress
    from egress_router.kernel.flow_events import Flow
    from egress_router.metrics import Registry
    from egress_router.records import RecordLog
    from egress_router.redirect.traffic import LineOf

_log = log.get("redirect")


class FlowLog:
    """Writes flows as they end; `line_of` returns the line that redirected a protocol, family and port."""

    def __init__(
        self,
        registry: Registry,
        records: RecordLog,
        line_of: Callable[[str, int, int], LineOf | None],
        clock: Clock,
    ) -> None:
        self._line_of = line_of
        self._clock = clock
        self._ids = Ids()
        self._records = records
        meaning = "Times that ends of connections were not logged, because too many came at once."
        self._lost = registry.counter("flow_events_lost_total", meaning)

    async def run(self, sources: Collection[IPAddress]) -> None:
        """Log until cancelled.

        Raises:
            RefusedError: the kernel does not let this process listen.
        """
        if not keep_details():
            _log.warning(
                "records have no bytes and no seconds: /proc/sys is read-only; set"
                " net.netfilter.nf_conntrack_acct=1 and net.netfilter.nf_conntrack_timestamp=1 in the pod's"
                " securityContext.sysctls"
            )
        events = FlowEvents(sources)
        loop = asyncio.get_running_loop()
        loop.add_reader(events, self._read, events)
        try:
            await asyncio.Event().wait()
        finally:
            loop.remove_reader(events)
            events.close()

    def _read(self, events: FlowEvents) -> None:
        for flow in events.read():
            self._records.write(self.record(flow))
        self._lost.value = events.lost

    def record(self, flow: Flow) -> Record:
        """Return the record of a flow."""
        seconds = None if flow.started is None else max(0.0, self._clock.time() - flow.started / 1e9)
        line = self._line_of(flow.protocol, flow.client.version, flow.local_port)
        return Record(
            event="connection",
            id=self._ids.of(flow.number),
            client=str(flow.client),
            client_port=flow.client_port,
            local_port=flow.local_port,
            protocol=flow.protocol,
            name=None if line is None else line.name,
            address=str(flow.address),
            port=flow.port,
            source=str(flow.source),
            source_port=flow.source_port,
            verdict=ALLOWED,
            rule=None if line is None else line.text,
            reason=flow.reason,
            sent=flow.sent,
            received=flow.received,
            seconds=None if seconds is None else round(seconds, 6),
        )
