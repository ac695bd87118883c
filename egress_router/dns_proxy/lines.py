"""Which line serves each port, and which other lines have connections that stay or are to end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Mapping

    from egress_router.dns_proxy.line import LineInForce
    from egress_router.grammar.forward import Forward
    from egress_router.upstreams.destination import Destination


class Lines:
    """Every line that may have connections; `in_force` are those that accept, by port.

    When the rule of a line is removed, or the egress policy denies one of its targets (`denies`), its
    connections have `drain_seconds` left. If the rule or the permission comes back before that, they stay.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        drain_seconds: float,
        make: Callable[[Forward, Destination], LineInForce],
        denies: Callable[[LineInForce], bool],
    ) -> None:
        self.in_force: dict[int, LineInForce] = {}
        self._loop = loop
        self._drain_seconds = drain_seconds
        self._make = make
        self._denies = denies
        # In the order in which they were made; a timer ends what is to end.
        self._timers: dict[LineInForce, asyncio.TimerHandle | None] = {}

    def __iter__(self) -> Iterator[LineInForce]:
        return iter(self._timers)

    def put_in_force(self, rules: Mapping[Forward, Destination]) -> None:
        """Have exactly these rules in force, and decide for each line whether its connections may stay."""
        allowed: dict[Forward, LineInForce] = {}
        for line in self._timers:
            if line.forward in rules and not self._denies(line):
                self._keep(line)
                # The oldest: otherwise each denial that is taken back would leave one more line behind.
                allowed.setdefault(line.forward, line)
            else:
                self._end_later(line)
        self.in_force = {}
        for rule, destination in rules.items():
            line = allowed.get(rule) or self._make(rule, destination)
            self._timers.setdefault(line, None)
            line.forward = rule  # a line of the text that only moved has another number
            line.destination = destination
            self.in_force[rule.port] = line

    def hits(self) -> Counter[Forward]:
        """Return how many connections each rule has had, on all its lines."""
        found: Counter[Forward] = Counter()
        for line in self._timers:
            found[line.forward] += line.hits
        return found

    def close(self) -> None:
        """End nothing any more."""
        for line in self._timers:
            self._keep(line)

    def _keep(self, line: LineInForce) -> None:
        timer = self._timers[line]
        if timer is not None:
            timer.cancel()
            self._timers[line] = None

    def _end_later(self, line: LineInForce) -> None:
        """Give its connections a time to end; one that is to end already keeps its deadline."""
        if self._timers[line] is None:
            self._timers[line] = self._loop.call_later(self._drain_seconds, self._end, line)

    def _end(self, line: LineInForce) -> None:
        del self._timers[line]
        line.end()
