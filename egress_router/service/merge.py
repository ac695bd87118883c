"""Merges the statuses of several workers into one. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, cast

from egress_router.service.latest_denied import MAX_DENIED
from egress_router.service.recent_errors import MAX_ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from egress_router.service.mode import Json


class PastWorkers:
    """What still counts of dead workers: hits and denials by the rule's text, the last denials and errors."""

    def __init__(self) -> None:
        self.hits: Counter[Json] = Counter()
        self.denied: list[dict[str, Json]] = []
        self.errors: list[dict[str, Json]] = []
        self.by_policy: Counter[Json] = Counter()

    def take(self, status: dict[str, Json]) -> None:
        """Add the last status of a worker that died."""
        # Two lines with the same text already share one count.
        self.hits.update({rule["text"]: int(_number(rule, "hits")) for rule in _entries(status, "rules")})
        self.by_policy.update(
            {entry["text"]: int(_number(entry, "denied")) for entry in _entries(status, "policy")}
        )
        self.denied = newest(self.denied + _entries(status, "denied"))
        self.errors = newest(self.errors + _entries(status, "recent_errors"), MAX_ERRORS)


def merged(statuses: Iterable[dict[str, Json]], past: PastWorkers) -> dict[str, Json]:
    """Merge the workers' statuses: hits add up, an upstream must be up for all, denials come newest first."""
    rules: dict[Json, dict[str, Json]] = {}
    upstreams: dict[tuple[Json, Json], dict[str, Json]] = {}
    policy: dict[Json, dict[str, Json]] = {}
    denied, errors = past.denied, past.errors
    destinations: Counter[Json] = Counter()
    for status in statuses:
        for rule in _entries(status, "rules"):
            known = rules.setdefault(rule["line"], {**rule, "hits": past.hits[rule["text"]]})
            known["hits"] = _number(known, "hits") + _number(rule, "hits")
        for entry in _entries(status, "policy"):
            known = policy.setdefault(entry["entry"], {**entry, "denied": past.by_policy[entry["text"]]})
            known["denied"] = _number(known, "denied") + _number(entry, "denied")
        for upstream in _entries(status, "upstreams"):
            key = (upstream["destination"], upstream["address"])
            seen = upstreams.setdefault(key, {**upstream})
            seen["up"] = bool(seen["up"]) and bool(upstream["up"])
        denied = denied + _entries(status, "denied")
        errors = errors + _entries(status, "recent_errors")
        destinations.update(
            {each["destination"]: int(_number(each, "open")) for each in _entries(status, "destinations")}
        )
    return {
        "rules": list(rules.values()),
        "policy": list(policy.values()),
        "upstreams": list(upstreams.values()),
        "denied": [*newest(denied)],
        "recent_errors": [*newest(errors, MAX_ERRORS)],
        "destinations": [{"destination": each, "open": count} for each, count in destinations.items()],
    }


def newest(kept: list[dict[str, Json]], most: int = MAX_DENIED) -> list[dict[str, Json]]:
    """Return the newest `most` entries, newest first."""
    return sorted(kept, key=lambda each: _number(each, "time"), reverse=True)[:most]


def _entries(status: dict[str, Json], key: str) -> list[dict[str, Json]]:
    # `Server.status` fixes what each key holds; the JSON types cannot express it.
    return cast("list[dict[str, Json]]", status.get(key, []))


def _number(entry: dict[str, Json], key: str) -> float:
    return cast("float", entry[key])
