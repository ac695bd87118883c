"""What is wrong now, in words, and since when: an operator on call reads this first.

Pure, except for the clock that is passed in. Every two seconds it gets the router's metrics and state.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from egress_router.clock import Clock
    from egress_router.metrics import Snapshot
    from egress_router.service.mode import Json

WINDOW: Final = 300.0  # seconds over which counters are compared
_TICKS: Final = 150  # in a window: one every two seconds
_MAX: Final = 50
# Of the 64,512 source ports that an address has for each destination; the alerts use the same limits. Proxies
# have only the ports that the kernel chooses.
_MANY_PORTS: Final = 50_000
_MUCH_OF_PORTS: Final = 0.8
_Counts = dict[tuple[str, str], float]

# Counters of failures: the metric, the label that says what failed, and the text.
_COUNTED: Final = (
    ("limit_hits_total", "limit", "the limit {what} was met {count} times in the last 5 minutes"),
    ("upstream_failures_total", "reason", "{count} requests failed in the last 5 minutes: {what}"),
    ("connections_total", "result", "{count} connections failed in the last 5 minutes: {what}"),
    ("worker_restarts_total", "", "{count} workers died or hung in the last 5 minutes and were replaced"),
    ("log_lines_dropped_total", "stream", "{count} log lines were lost in the last 5 minutes ({what})"),
)


# Results of connections that are no failure: rules and policy decided so. A limit is in `limit_hits_total`.
AS_IT_SHOULD: Final = frozenset(
    ("connections_total", result) for result in ("connected", "limit", "policy", "no_rule")
)


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong; `blocks`: clients are not served because of it."""

    text: str
    blocks: bool


class Troubles:
    """Finds out what is wrong, and remembers since when."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}  # by a key that does not change while the trouble lasts
        self._counts: deque[tuple[float, _Counts]] = deque(maxlen=_TICKS + 1)
        self._now: list[tuple[str, Trouble]] = []

    def look(self, snapshot: Snapshot, health: tuple[str, ...], ready: tuple[str, ...]) -> None:
        """Take the router's metrics, and its reasons not to be healthy or ready, as they are now."""
        self._counts.append((self._clock.monotonic(), _counts(snapshot)))
        found = [(each, Trouble(each, blocks=True)) for each in dict.fromkeys((*health, *ready))]
        found += _of_state(snapshot)
        found += self._of_counts()
        self._now = found if len(found) <= _MAX else [*found[:_MAX], _more(len(found) - _MAX)]
        now = self._clock.time()
        self._since = {key: self._since.get(key, now) for key, _ in self._now}

    def status(self) -> list[Json]:
        """Return what is wrong, what blocks clients first; `since` is Unix time."""
        ordered = sorted(self._now, key=lambda each: not each[1].blocks)
        return [
            {"text": trouble.text, "since": self._since[key], "blocks": trouble.blocks}
            for key, trouble in ordered
        ]

    def _of_counts(self) -> Iterator[tuple[str, Trouble]]:
        latest, totals = self._counts[-1]
        before = next(counts for time, counts in self._counts if time >= latest - WINDOW)
        words = {metric: text for metric, _, text in _COUNTED}
        for (metric, what), total in sorted(totals.items()):
            count = total - before.get((metric, what), 0.0)
            if count >= 1:
                yield (
                    f"{metric} {what}",
                    Trouble(words[metric].format(count=round(count), what=what), blocks=False),
                )


def _more(count: int) -> tuple[str, Trouble]:
    return "more", Trouble(f"and {count} more, which the metrics show", blocks=False)


def _of_state(snapshot: Snapshot) -> Iterator[tuple[str, Trouble]]:
    valid = snapshot.get("rules_valid")
    if valid is not None and not all(valid.numbers.values()):
        yield "rules", Trouble("the changed rules are refused; the old ones stay in force", blocks=False)
    yield from _of_ports(snapshot)
    by_destination: dict[str, dict[str, float]] = {}
    up = snapshot.get("upstream_up")
    for labels, value in () if up is None else up.numbers.items():
        known = dict(labels)
        by_destination.setdefault(known.get("destination", ""), {})[known.get("address", "")] = value
    for destination, addresses in sorted(by_destination.items()):
        text = _destination(destination, addresses)
        if text is not None:
            yield f"destination {destination}", Trouble(text, blocks=False)


def _of_ports(snapshot: Snapshot) -> Iterator[tuple[str, Trouble]]:
    in_use = snapshot.get("snat_ports_in_use")
    for labels, count in sorted(() if in_use is None else in_use.numbers.items()):
        if count > _MANY_PORTS:
            known = dict(labels)
            way = f"{known.get('source', '')} towards {known.get('destination', '')}"
            text = f"source ports of {way} run out: {count:,.0f} of 64,512 are in use"
            yield f"ports {way}", Trouble(text, blocks=False)
    limit = snapshot.get("source_ports_limit")
    in_use = snapshot.get("source_ports_in_use")
    most = 0.0 if limit is None else max(limit.numbers.values(), default=0.0)
    for labels, count in sorted(() if in_use is None else in_use.numbers.items()):
        if most and count > _MUCH_OF_PORTS * most:
            source = dict(labels).get("source", "")
            used = f"{count:,.0f} of {most:,.0f} are in use towards one destination"
            yield f"ports {source}", Trouble(f"source ports of {source} run out: {used}", blocks=False)


def _destination(destination: str, addresses: Mapping[str, float]) -> str | None:
    down = sorted(address for address, up in addresses.items() if not up)
    if not down:
        return None
    if down == [""]:
        return f"{destination} has no address: its name does not resolve"
    if len(down) == len(addresses):
        return f"no address of {destination} answers ({', '.join(down)})"
    return f"of {destination} {', '.join(down)} does not answer; its other addresses serve"


def _counts(snapshot: Snapshot) -> _Counts:
    found: _Counts = {}
    for metric, label, _ in _COUNTED:
        family = snapshot.get(metric)
        for labels, value in () if family is None else family.numbers.items():
            what = dict(labels).get(label, "")
            if (metric, what) not in AS_IT_SHOULD:
                found[metric, what] = found.get((metric, what), 0.0) + value
    return found
