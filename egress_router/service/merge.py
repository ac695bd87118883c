"""One status out of those of several workers. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterable

    from egress_router.service.mode import Json

_MOST_DENIED = 50


def merged(statuses: Iterable[dict[str, Json]]) -> dict[str, Json]:
    """Add up what workers say: hits add up, an upstream must be up for all, denials come newest first."""
    rules: dict[Json, dict[str, Json]] = {}
    upstreams: dict[tuple[Json, Json], dict[str, Json]] = {}
    denied: list[dict[str, Json]] = []
    for status in statuses:
        for rule in _entries(status, "rules"):
            known = rules.setdefault(rule["line"], {**rule, "hits": 0})
            known["hits"] = _number(known, "hits") + _number(rule, "hits")
        for upstream in _entries(status, "upstreams"):
            key = (upstream["destination"], upstream["address"])
            seen = upstreams.setdefault(key, upstream)
            seen["up"] = bool(seen["up"]) and bool(upstream["up"])
        denied += _entries(status, "denied")
    denied.sort(key=lambda each: _number(each, "time"), reverse=True)
    return {
        "rules": list(rules.values()),
        "upstreams": list(upstreams.values()),
        "denied": list(denied[:_MOST_DENIED]),
    }


def _entries(status: dict[str, Json], key: str) -> list[dict[str, Json]]:
    # What each key holds is fixed by `Server.status`; JSON types alone cannot say it.
    return cast("list[dict[str, Json]]", status.get(key, []))


def _number(entry: dict[str, Json], key: str) -> float:
    return cast("float", entry[key])
