"""Which clients and destinations have the most connections open now, for /status and the page. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections import Counter

    from egress_router.service.mode import Json

MAX_SHOWN: Final = 10


def busiest(clients: Counter[str], destinations: Counter[str]) -> dict[str, Json]:
    """Return the busiest of each, and how many there are in all."""
    return {
        "clients": _top(clients, "client"),
        "destinations": _top(destinations, "destination"),
        "all_clients": len(clients),
        "all_destinations": len(destinations),
    }


def _top(counted: Counter[str], name: str) -> list[Json]:
    # In a fixed order: entries with the same number must not swap places at each refresh (2 s).
    ordered = sorted(counted.items(), key=lambda each: (-each[1], each[0]))
    return [{name: each, "open": count} for each, count in ordered[:MAX_SHOWN]]
