"""The metrics of name resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.metrics import LATENCY_BUCKETS
from egress_router.names.answer import Failure

if TYPE_CHECKING:
    from egress_router.metrics import Registry

TRANSPORTS = ("udp", "tcp")
ANSWERED, TRUNCATED, REFUSED, SILENT, UNREACHABLE = (
    "answered",
    "truncated",
    "server_failure",
    "timeout",
    "unreachable",
)
FOUND = "found"


class DnsMetrics:
    """Every counter of this package."""

    def __init__(self, registry: Registry) -> None:
        self.lookups = {
            result: registry.counter(
                "dns_lookups_total", "Look-ups of names that were not in the cache.", result=result
            )
            for result in (FOUND, *(failure.value for failure in Failure))
        }
        self.queries = {
            (transport, result): registry.counter(
                "dns_queries_total", "Queries to name servers.", transport=transport, result=result
            )
            for transport in TRANSPORTS
            for result in (ANSWERED, TRUNCATED, REFUSED, SILENT, UNREACHABLE)
        }
        self.ignored = registry.counter(
            "dns_datagrams_ignored_total", "Datagrams that answered no open query."
        )
        self.hits = registry.counter("dns_cache_hits_total", "Look-ups that were answered from the cache.")
        self.stale = registry.counter(
            "dns_stale_answers_total", "Last good addresses given out while the name servers fail."
        )
        self.limits = {
            limit: registry.counter("limit_hits_total", "Connections that reached a limit.", limit=limit)
            for limit in ("dns_lookups", "dns_lookups_per_client")
        }
        self.seconds = registry.histogram(
            "dns_lookup_seconds", "Time of look-ups that were not in the cache.", LATENCY_BUCKETS
        )
