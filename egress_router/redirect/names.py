"""Follows the names of redirect lines, and knows where each line leads now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from egress_router.clock import SYSTEM
from egress_router.redirect.lines import (
    Departure,
    Departures,
    Resolved,
    checked_port,
    destination,
    in_order,
    serving,
    shown_address,
)
from egress_router.upstreams.followed import FollowedName, Names
from egress_router.upstreams.health import INTERVAL, Checks
from egress_router.upstreams.report import Upstream, UpstreamReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from egress_router.clock import Clock
    from egress_router.grammar.address import IPAddress, Target
    from egress_router.grammar.redirect import NamedRedirect
    from egress_router.names.answer import ResolveError


class LineNames:
    """The names of all lines, in an event loop. `on_change` is called when a line may lead elsewhere.

    `unusable` returns why an address of a line's name is left out: None if it is not, an empty text if there
    is nothing to report.
    """

    def __init__(
        self,
        names: Names,
        report: UpstreamReport,
        unusable: Callable[[NamedRedirect, IPAddress], str | None],
        on_change: Callable[[], None],
        *,
        clock: Clock = SYSTEM,
        interval: float = INTERVAL,
    ) -> None:
        self._names = names
        self._report = report
        report.show(self.upstreams)
        self._unusable = unusable
        self._on_change = on_change
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._checks = Checks(self._loop, self._health_changed, clock=clock, interval=interval)
        self._departures = Departures()
        self._followed: dict[str, FollowedName] = {}
        self._answered: dict[str, asyncio.Event] = {}
        self._addresses: dict[NamedRedirect, tuple[IPAddress, ...]] = {}
        self._lines: dict[str, set[NamedRedirect]] = {}
        self._served: dict[NamedRedirect, tuple[IPAddress, ...]] = {}
        self._left_out: dict[NamedRedirect, str | None] = {}
        self._watch_due = False

    def follow(self, lines: Iterable[NamedRedirect], known: Resolved | None = None) -> None:
        """Also follow the names of these lines; `known` is where they lead until the first answer."""
        for line in lines:
            self._addresses.setdefault(line, (known or {}).get(line, ()))
            self._lines.setdefault(line.name, set()).add(line)
            if line.name in self._followed:
                self._arrange(line)
                continue
            self._answered[line.name] = asyncio.Event()
            name = FollowedName(
                line.name, self._names, self._on_answer(line.name), self._clock, self._addresses[line]
            )
            self._followed[line.name] = name
            name.start(self._loop)
        self._watch_soon()

    def keep(self, lines: Iterable[NamedRedirect]) -> None:
        """Follow the names of these lines only."""
        wanted = set(lines)
        gone = self._addresses.keys() - wanted
        for line in gone:
            del self._addresses[line]
            self._served.pop(line, None)
            self._left_out.pop(line, None)
            self._lines[line.name].discard(line)
            if not self._lines[line.name]:
                del self._lines[line.name], self._answered[line.name]
                self._followed.pop(line.name).stop()
        if gone:
            self._watch_soon()

    async def answered(self, lines: Iterable[NamedRedirect], seconds: float) -> None:
        """Wait until each name of these lines has had its first answer or failure, for `seconds` at most."""
        names = {line.name for line in lines}
        waiting = [self._loop.create_task(self._answered[name].wait()) for name in names]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=seconds)
            for each in late:
                each.cancel()

    def resolved(self, lines: Iterable[NamedRedirect]) -> Resolved:
        """Return where each of these lines leads now; it may lead to no address."""
        return {line: self._serving(line) for line in lines}

    def _serving(self, line: NamedRedirect) -> tuple[IPAddress, ...]:
        # Each change asks for all lines, and nearly all of them have not changed.
        found = self._served.get(line)
        if found is None:
            found = serving(line, self._addresses.get(line, ()), self._checks.is_up)
            if line in self._addresses:
                self._served[line] = found
        return found

    @property
    def has_departed(self) -> bool:
        """Whether an address has left the answer of a UDP line's name, and its flows wait to be moved."""
        return bool(self._departures)

    def departed(self, resolved: Resolved) -> list[Departure]:
        """Return the addresses whose UDP flows are to be moved now, if these lines are in force."""
        return self._departures.due(self._clock.monotonic(), resolved)

    def moved(self, departed: Iterable[Departure]) -> None:
        """Note that the flows of these were moved."""
        self._departures.forget(departed)

    def upstreams(self) -> Iterator[Upstream]:
        """Yield every address of every line with its health, and the lines that have none."""
        for line, addresses in self._addresses.items():
            port = checked_port(line)
            for address in addresses:
                up = port is None or self._checks.is_up((address, port))
                yield Upstream(destination(line), shown_address(line, address), up)
            if not addresses:
                name = self._followed.get(line.name)
                failure = None if name is None else name.failure
                reason = self._left_out.get(line) or self._why_none(line.name, failure)
                yield Upstream(destination(line), "", up=False, reason=reason)

    def destinations(self) -> Mapping[NamedRedirect, tuple[IPAddress, ...]]:
        """Return every address of every line, up or down."""
        return self._addresses

    def close(self) -> None:
        """Stop following names and checking addresses."""
        self.keep(())
        self._watch()
        self._names.close()

    def _on_answer(self, name: str) -> Callable[[bool], None]:
        def answered(news: bool) -> None:  # noqa: FBT001 - as `FollowedName` calls it
            followed = self._followed.get(name)
            if followed is None:
                return
            self._answered[name].set()
            before = {line: self._addresses[line] for line in self._lines[name]}
            for line in before:
                self._arrange(line)
            changed = any(self._addresses[line] != addresses for line, addresses in before.items())
            if news or changed:
                self._report.resolved(name, in_order(followed.addresses), followed.failure)
            if changed:
                self._watch_soon()
                self._on_change()

        return answered

    def _arrange(self, line: NamedRedirect) -> None:
        """Note the addresses of a line's name as they are now."""
        name = self._followed[line.name]
        if not self._answered[line.name].is_set():
            return
        reasons = {address: self._unusable(line, address) for address in name.addresses}
        usable = in_order(address for address, reason in reasons.items() if reason is None)
        self._departures.note(line, self._addresses[line], usable, self._clock.monotonic())
        self._addresses[line] = usable
        self._served.pop(line, None)
        reason = next((each for each in reasons.values() if each), None)
        if reason is not None and reason != self._left_out.get(line):
            self._report.left_out(destination(line), reason)
        self._left_out[line] = reason

    def _why_none(self, name: str, failure: ResolveError | None) -> str:
        if failure is not None:
            return str(failure)
        answered = self._answered.get(name)
        if answered is None or not answered.is_set():
            return "not asked yet"
        return "the name has no address of a family that the line can leave with"

    def _watch_soon(self) -> None:
        """Update what is checked, once for all changes in a turn of the loop."""
        if not self._watch_due:
            self._watch_due = True
            self._loop.call_soon(self._watch)

    def _watch(self) -> None:
        self._watch_due = False
        targets = set()
        for line, addresses in self._addresses.items():
            port = checked_port(line)
            if port is not None:
                targets |= {(address, port) for address in addresses}
        self._checks.watch(targets)

    def _health_changed(self, target: Target) -> None:
        self._report.health(target, up=self._checks.is_up(target))
        address, port = target
        for line, addresses in self._addresses.items():
            if checked_port(line) == port and address in addresses:
                self._served.pop(line, None)
        self._on_change()
