"""Adds to the workers' status who is busy now, and the errors of the supervisor itself."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, cast

from egress_router.grammar.address import printed
from egress_router.service.busiest import busiest
from egress_router.service.merge import newest
from egress_router.service.recent_errors import MAX_ERRORS, RECENT

if TYPE_CHECKING:
    from egress_router.net.open_connections import OpenConnections
    from egress_router.service.mode import Json


def put_together(workers: dict[str, Json], seen: OpenConnections) -> dict[str, Json]:
    """Return the workers' status with `busiest` and all `recent_errors`.

    Workers that know destinations by name report them; else the addresses get their names from the lines.
    """
    named = cast("list[dict[str, Json]]", workers.pop("destinations", []))
    destinations: Counter[str] = Counter()
    if named:
        destinations.update({str(each["destination"]): int(cast("int", each["open"])) for each in named})
    else:
        upstreams = cast("list[dict[str, Json]]", workers.get("upstreams", []))
        names = {str(each["address"]): str(each["destination"]) for each in upstreams}
        for target, count in seen.destinations.items():
            text = printed(*target)
            if text in names:
                destinations[names[text]] += count
    clients = Counter({str(address): count for address, count in seen.clients.items()})
    errors = cast(
        "list[dict[str, Json]]", [*cast("list[Json]", workers.get("recent_errors", [])), *RECENT.shown()]
    )
    return {
        **workers,
        "recent_errors": [*newest(errors, MAX_ERRORS)],
        "busiest": busiest(clients, destinations),
    }
