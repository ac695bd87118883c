"""The TCP forwarder inside one worker: rules in force, their destinations, and open connections."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from egress_router.dns_proxy.journal import LIMIT, Journal
from egress_router.dns_proxy.session import Line, Session, Shared
from egress_router.grammar import forward as grammar
from egress_router.grammar.address import printed
from egress_router.names.resolver import Resolver
from egress_router.relay.dataplane import DataPlane
from egress_router.relay.deadlines import Deadlines
from egress_router.relay.tunnel import Relay
from egress_router.service.acceptor import Acceptor
from egress_router.service.mode import Mode
from egress_router.upstreams.destination import Destination
from egress_router.upstreams.health import Checks
from egress_router.upstreams.places import forbidden_place
from egress_router.upstreams.route import is_own

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping

    from egress_router.grammar.address import Host, IPAddress
    from egress_router.grammar.forward import Forwards
    from egress_router.metrics import Registry
    from egress_router.service.mode import Json, WorkerContext
    from egress_router.settings.dns_proxy import DnsProxySettings
    from egress_router.settings.names import NamesSettings
    from egress_router.upstreams.followed import Names
    from egress_router.upstreams.places import Forbidden, Place
    from egress_router.upstreams.pool import Target


def mode(
    settings: DnsProxySettings,
    resolver: Callable[[NamesSettings, Registry], Names] = Resolver,
    forbidden: Forbidden = forbidden_place,
) -> Mode[Forwards]:
    """Return the TCP forwarder as a mode.

    `resolver` makes what looks names up; `forbidden` says which of their addresses are left out.
    """
    return Mode(
        name="dns-proxy",
        parse=partial(grammar.parse, admin_port=settings.proxy.runtime.admin_port),
        ports=lambda rules: frozenset(line.port for line in rules.lines),
        build=lambda context, rules: Forwarder(context, settings, rules, resolver, forbidden),
        summary=lambda rules: tuple(grammar.printed(rules).splitlines()),
    )


class Forwarder:
    """Accepts on the ports of the lines and relays to their destinations."""

    def __init__(
        self,
        context: WorkerContext,
        settings: DnsProxySettings,
        rules: Forwards,
        resolver: Callable[[NamesSettings, Registry], Names],
        forbidden: Forbidden,
    ) -> None:
        self._context = context
        self._limiter = context.limiter
        self._journal = Journal(context.registry, access_log=settings.proxy.access_log, debug=settings.debug)
        self._forbidden = forbidden
        self._admin_port = settings.proxy.runtime.admin_port
        self._names = resolver(settings.names, context.registry)
        self._deadlines = Deadlines(context.loop)
        self._plane = DataPlane(context.loop)
        self._relay = Relay(self._plane, context.poller)
        self._plane.count(context.registry, self._journal.sent, self._journal.received)
        self._checks = Checks(context.loop, self._health_changed)
        self._acceptor = Acceptor(context.loop, context.registry, self._enter)
        self._shared = Shared(
            self._plane,
            self._deadlines,
            self._relay,
            self._checks,
            self._journal,
            settings.connect_seconds,
            settings.idle_seconds,
            self._ended,
        )
        self._lines: dict[int, Line] = {}
        self._ports: frozenset[int] = frozenset()
        self._named: frozenset[IPAddress] = frozenset()
        self._destinations: dict[tuple[Host, int], Destination] = {}
        self._sessions: set[Session] = set()
        self._update_due = False
        self.apply(rules)

    def apply(self, rules: Forwards) -> None:
        """Make these lines decide from now on.

        Connections of lines that are gone, or that lead elsewhere now, have `drain_seconds` left.
        """
        before, destinations = self._lines, self._destinations
        self._ports = frozenset(line.port for line in rules.lines)
        self._named = frozenset(line.target for line in rules.lines if not isinstance(line.target, str))
        self._lines = {}
        self._destinations = {}
        for each in rules.lines:
            known = before.get(each.port)
            hits = known.hits if known is not None and known.forward == each else 0
            self._lines[each.port] = Line(each, self._destination(each, destinations), hits)
        for key, destination in destinations.items():
            if key in self._destinations:
                destination.arrange()
            else:
                destination.stop()
        for session in self._sessions:
            self._judge(session)
        self._update_soon()

    def listen(self, listeners: Mapping[int, socket.socket]) -> None:
        """Accept on exactly these sockets, by port."""
        self._acceptor.listen(listeners)

    def stop_accepting(self) -> None:
        """Take in what the accept queues hold, then accept no more; open connections go on."""
        self._acceptor.stop()

    def open_connections(self) -> int:
        """How many client connections are open, those that are still being connected included."""
        return len(self._sessions)

    def close_all(self) -> None:
        """Close every connection, and stop following names and checking addresses."""
        self._acceptor.stop()
        for session in list(self._sessions):
            session.close()
        for destination in self._destinations.values():
            destination.stop()
        self._checks.stop()
        self._names.close()
        self._plane.close()
        self._deadlines.close()

    def status(self) -> dict[str, Json]:
        """Lines with their connections so far, addresses with their health, ports."""
        rules: list[Json] = [
            {"line": line.forward.line, "text": self._text(line), "hits": line.hits}
            for line in self._lines.values()
        ]
        upstreams: list[Json] = [
            {"destination": destination, "address": printed(*target), "up": up}
            for destination, target, up in self._upstreams()
        ]
        unresolved: list[Json] = [
            {
                "destination": each.text,
                "address": "",
                "up": False,
                "reason": each.left_out.reason if each.left_out else str(each.failure or "not asked yet"),
            }
            for each in self._destinations.values()
            if not each.targets
        ]
        return {
            "rules": rules,
            "upstreams": upstreams + unresolved,
            "listeners": list(self._lines),
        }

    def _destination(
        self, line: grammar.Forward, before: Mapping[tuple[Host, int], Destination]
    ) -> Destination:
        key = (line.target, line.target_port)
        destination = self._destinations.get(key) or before.get(key)
        if destination is None:
            destination = Destination(*key, self._names, self._checks.is_up, self._place, self._moved)
            destination.start(self._context.loop)
        self._destinations[key] = destination
        return destination

    def _enter(self, sock: socket.socket, client: str, port: int) -> None:
        line = self._lines.get(port)
        if line is None:  # its line went while the client waited in the accept queue
            sock.close()
            return
        if self._limiter.enter(client) is not None:
            sock.close()
            self._journal.refused(client, port, line.destination.text, LIMIT)
            return
        line.hits += 1
        session = Session(self._shared, sock, client, line)
        self._sessions.add(session)
        self._journal.open.value += 1
        session.begin()

    def _ended(self, session: Session) -> None:
        self._sessions.discard(session)
        self._journal.open.value -= 1
        self._limiter.leave(session.client)
        if session.doom is not None:
            session.doom.cancel()

    def _judge(self, session: Session) -> None:
        """Give a session that the lines do not allow any more a time to end, or take it back."""
        wanted = session.line.forward
        line = self._lines.get(wanted.port)
        if line is not None and line.forward == wanted:
            if session.doom is not None:
                session.doom.cancel()
                session.doom = None
        elif session.doom is None:
            session.doom = self._deadlines.add(self._context.drain_seconds, session.close)

    def _place(self, host: Host, target: Target) -> Place | None:
        return self._forbidden(
            host,
            target,
            named=self._named,
            ports=self._ports,
            admin_port=self._admin_port,
            is_own=is_own,
        )

    def _moved(self, destination: Destination) -> None:
        if isinstance(destination.host, str):
            self._journal.resolved(destination)
        if destination.left_out is not None:
            self._journal.left_out(destination, destination.left_out)
        self._update_soon()

    def _health_changed(self, target: Target) -> None:
        self._journal.health(target, up=self._checks.is_up(target))
        for destination in self._destinations.values():
            if target in destination.targets:
                destination.arrange()
        self._update_soon()

    def _update_soon(self) -> None:
        """Check what serves now and show it; once for all changes of a turn of the loop."""
        if not self._update_due:
            self._update_due = True
            self._context.loop.call_soon(self._update)

    def _update(self) -> None:
        self._update_due = False
        self._checks.watch(target for each in self._destinations.values() for target in each.targets)
        self._journal.upstreams(self._upstreams())

    def _upstreams(self) -> Iterator[tuple[str, Target, bool]]:
        for destination in self._destinations.values():
            for target in destination.targets:
                yield destination.text, target, self._checks.is_up(target)

    @staticmethod
    def _text(line: Line) -> str:
        each = line.forward
        return f"{each.port} {each.target} {each.target_port}"
