"""The TCP forwarder in one worker: the rules in force, their destinations, and open connections."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.dns_proxy.access_log import AccessLog
from egress_router.dns_proxy.debug_log import DebugLine
from egress_router.dns_proxy.line import LineInForce, Tools
from egress_router.dns_proxy.target_policy import TargetPolicy
from egress_router.grammar import forward as grammar
from egress_router.grammar.address import printed
from egress_router.names.resolver import Resolver
from egress_router.relay.dataplane import DataPlane
from egress_router.service.accept_pauses import AcceptPauses
from egress_router.service.mode import Mode
from egress_router.upstreams.destination import Destination
from egress_router.upstreams.forbidden import forbidden_reason
from egress_router.upstreams.health import INTERVAL, Checks
from egress_router.upstreams.policy_names import PolicyNames
from egress_router.upstreams.report import Upstream, UpstreamReport

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Iterator, Mapping

    from egress_router.grammar.address import Host, Target
    from egress_router.grammar.forward import Forwards
    from egress_router.metrics import Registry
    from egress_router.policy.egress_policy import NamesOf
    from egress_router.service.mode import Json, WorkerContext
    from egress_router.settings.dns_proxy import DnsProxySettings
    from egress_router.settings.names import NamesSettings
    from egress_router.settings.policy import Guarded
    from egress_router.upstreams.followed import Names
    from egress_router.upstreams.forbidden import ForbiddenCheck


def mode(
    settings: DnsProxySettings,
    resolver: Callable[[NamesSettings, Registry], Names] = Resolver,
    forbidden: ForbiddenCheck = forbidden_reason,
    check_seconds: float = INTERVAL,
) -> Mode[Guarded[Forwards]]:
    """Return the TCP forwarder as a mode.

    `resolver` makes the resolver; `forbidden` says which addresses of names are left out; each address is
    checked every `check_seconds`.
    """
    return Mode(
        name="dns-proxy",
        parse=settings.source.parser(
            partial(grammar.parse, admin_port=settings.proxy.runtime.admin_port, sources=settings.sources)
        ),
        ports=lambda guarded: frozenset(line.port for line in guarded.rules.lines),
        build=lambda context, rules: Forwarder(context, settings, rules, resolver, forbidden, check_seconds),
        summary=lambda guarded: (
            *grammar.printed_forwards(guarded.rules).splitlines(),
            *guarded.policy_lines(),
        ),
    )


class Forwarder:
    """Accepts on the ports of the lines and relays to their destinations."""

    def __init__(
        self,
        context: WorkerContext,
        settings: DnsProxySettings,
        rules: Guarded[Forwards],
        resolver: Callable[[NamesSettings, Registry], Names],
        forbidden: ForbiddenCheck,
        check_seconds: float,
    ) -> None:
        self._context = context
        events = log.get("dns_proxy")
        self._access_log = AccessLog(
            context.registry,
            access_log=settings.proxy.access_log,
            debug=settings.debug,
            tells_debug=events.tells_debug,
        )
        # With the debug setting these lines go to stdout, otherwise they are events like all others.
        self._report = UpstreamReport(context.registry, log.records() if settings.debug else events)
        self._policy = TargetPolicy(context.registry, forbidden, settings.proxy.runtime.admin_port)
        self._names = resolver(settings.names, context.registry)
        self._plane = DataPlane(
            context.loop,
            context.limiter.limits,
            own=context.shared.own,
            most_held=settings.proxy.relay_bytes // settings.proxy.workers,
        )
        self._plane.count(context.registry, self._access_log.sent, self._access_log.received)
        self._plane.tell_pauses(AcceptPauses(context.registry))
        context.registry.before_snapshot(self._show)
        # After the reports of the data plane are read, which may have changed an address's health.
        self._report.show(self._upstreams)
        self._checks = Checks(context.loop, self._health_changed, interval=check_seconds)
        self._tools = Tools(
            self._plane, self._checks, self._access_log, context.limiter, settings, self._policy.count_denied
        )
        self._make_line = DebugLine if events.tells_debug else LineInForce
        self._lines: dict[int, LineInForce] = {}
        self._destinations: dict[tuple[Host, int], Destination] = {}
        # Removed lines, and the timers that end their connections.
        self._leaving: dict[grammar.Forward, tuple[LineInForce, asyncio.TimerHandle]] = {}
        self._denied: dict[LineInForce, asyncio.TimerHandle] = {}
        self._update_due = False
        self._policy_names = PolicyNames(context.loop, self._names, self._named_anew)
        self.apply(rules)

    def apply(self, guarded: Guarded[Forwards]) -> None:
        """Decide by these lines and this egress policy from now on.

        Connections of lines that are removed or lead elsewhere now have `drain_seconds` left; so have all of
        a line whose destination the policy denies now.
        """
        rules = guarded.rules
        self._tools.nearby.refresh()
        self._policy.apply(guarded)
        before, destinations = self._lines, self._destinations
        self._lines = {}
        self._destinations = {}
        for each in rules.lines:
            destination = self._destination(each, destinations)
            self._lines[each.port] = self._line(each, destination, before)
        for line in before.values():
            self._leave(line)
        for key, destination in destinations.items():
            if key in self._destinations:
                destination.arrange()
            else:
                destination.stop()
        for port, line in self._lines.items():
            line.aim()
            self._plane.change_line(port, line)
        self._update_soon()
        self._policy_names.follow(() if guarded.policy is None else guarded.policy.dns_names)

    def _named_anew(self, names: NamesOf) -> None:
        """Use these names for the egress policy from now on."""
        self._policy.follow(names)
        for port, line in list(self._lines.items()):
            if self._policy.denies_some(line.destination):
                self._lines[port] = self._make_line(self._tools, line.forward, line.destination)
                self._cut_later(line)
        for destination in self._destinations.values():
            destination.arrange()
            self._moved(destination)
        for port, line in self._lines.items():
            line.aim()
            self._plane.change_line(port, line)

    def listen(self, listeners: Mapping[int, socket.socket]) -> None:
        """Accept on exactly these sockets, by port."""
        self._tools.nearby.listen(listeners.values())
        self._plane.listen_on(listeners, self._lines.__getitem__)

    def stop_accepting(self) -> None:
        """Accept what is in the accept queues, then nothing more; open connections stay open."""
        self.listen({})

    def open_connections(self) -> int:
        """How many client connections are open, including those that are still being connected."""
        return self._plane.open_connections()

    def close_all(self) -> None:
        """Close all connections, and stop following names and checking addresses."""
        self.stop_accepting()
        for timer in (*(timer for _, timer in self._leaving.values()), *self._denied.values()):
            timer.cancel()
        for destination in self._destinations.values():
            destination.stop()
        self._checks.stop()
        self._policy_names.close()
        self._names.close()
        self._plane.close([*self._lines.values(), *(line for line, _ in self._leaving.values())])

    def status(self) -> dict[str, Json]:
        """Lines with their connections so far, addresses with their health, ports."""
        rules: list[Json] = [
            {"line": line.forward.line, "text": self._text(line), "hits": line.hits}
            for line in self._lines.values()
        ]
        upstreams: list[Json] = [{**upstream.shown()} for upstream in self._upstreams()]
        return {
            "rules": rules,
            "policy": self._policy.shown(),
            "upstreams": upstreams,
            "denied": self._access_log.denied.shown(),
            "listeners": list(self._lines),
        }

    def _destination(
        self, line: grammar.Forward, before: Mapping[tuple[Host, int], Destination]
    ) -> Destination:
        key = (line.target, line.target_port)
        destination = self._destinations.get(key) or before.get(key)
        if destination is None:
            destination = Destination(
                *key, self._names, self._checks.is_up, self._policy.forbidden_reason, self._moved
            )
            destination.start(self._context.loop)
        self._destinations[key] = destination
        return destination

    def _line(
        self, rule: grammar.Forward, destination: Destination, before: dict[int, LineInForce]
    ) -> LineInForce:
        """Return the line of a rule: the present one, a removed one that is still draining, or a new one."""
        line = before.get(rule.port)
        if line is not None and self._policy.denies_some(line.destination):
            self._cut_later(before.pop(rule.port))
            return self._make_line(self._tools, rule, destination)
        if line is not None and line.forward == rule:
            del before[rule.port]
        elif rule in self._leaving:
            line, timer = self._leaving.pop(rule)
            timer.cancel()
        else:
            return self._make_line(self._tools, rule, destination)
        line.forward = rule
        line.destination = destination
        return line

    def _cut_later(self, line: LineInForce) -> None:
        """Give the connections of a line to a destination that the policy denies now time to end."""
        self._denied[line] = self._context.loop.call_later(self._context.drain_seconds, self._cut, line)

    def _cut(self, line: LineInForce) -> None:
        del self._denied[line]
        line.end()

    def _leave(self, line: LineInForce) -> None:
        """Give the connections of a removed line time to end."""
        timer = self._context.loop.call_later(self._context.drain_seconds, self._end, line)
        self._leaving[line.forward] = (line, timer)

    def _end(self, line: LineInForce) -> None:
        del self._leaving[line.forward]
        line.end()

    def _show(self) -> None:
        """Update the values that metrics show, after the data plane has reported everything."""
        if self._update_due:
            self._update()
        self._access_log.open.value = self._plane.open_connections()

    def _moved(self, destination: Destination) -> None:
        if isinstance(destination.host, str):
            addresses = [address for address, _ in destination.targets]
            self._report.resolved(destination.host, addresses, destination.failure)
        if destination.left_out is not None:
            self._report.left_out(destination.text, self._policy.reason(destination, destination.left_out))
        self._update_soon()

    def _health_changed(self, target: Target) -> None:
        self._report.health(target, up=self._checks.is_up(target))
        for destination in self._destinations.values():
            if target in destination.targets:
                destination.arrange()
        self._update_soon()

    def _update_soon(self) -> None:
        """Update targets and health checks soon: once for all changes in one turn of the loop."""
        if not self._update_due:
            self._update_due = True
            self._context.loop.call_soon(self._update)

    def _update(self) -> None:
        self._update_due = False
        for line in self._lines.values():
            line.aim()
        self._checks.watch(target for each in self._destinations.values() for target in each.targets)

    def _upstreams(self) -> Iterator[Upstream]:
        for destination in self._destinations.values():
            for target in destination.targets:
                yield Upstream(destination.text, printed(*target), self._checks.is_up(target))
        for destination in self._destinations.values():
            if not destination.targets:
                left_out = destination.left_out
                reason = str(destination.failure or "not asked yet")
                if left_out is not None:
                    reason = self._policy.reason(destination, left_out)
                yield Upstream(destination.text, "", up=False, reason=reason)

    @staticmethod
    def _text(line: LineInForce) -> str:
        return grammar.printed_forward(line.forward)
