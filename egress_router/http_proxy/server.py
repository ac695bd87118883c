"""The HTTP proxy as a mode of the service: what a worker runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Final, Protocol

from egress_router import log
from egress_router.clock import SYSTEM
from egress_router.grammar import acl
from egress_router.grammar.address import printed
from egress_router.http_proxy.acceptor import Acceptor, TurnedAway
from egress_router.http_proxy.access_control import AccessControl
from egress_router.http_proxy.access_log import AccessLog
from egress_router.http_proxy.accounting import Accounting
from egress_router.http_proxy.client_watch import ClientWatch
from egress_router.http_proxy.debug_log import DebugAccounting
from egress_router.http_proxy.known_connects import KnownConnects
from egress_router.http_proxy.own_addresses import OwnAddresses, seen
from egress_router.http_proxy.upstream import UpstreamPool
from egress_router.http_proxy.worker_state import HELLO_SECONDS, WorkerState
from egress_router.names.resolver import Resolver
from egress_router.relay.buffered_socket import TURNS
from egress_router.relay.dataplane import DataPlane
from egress_router.relay.deadlines import Deadlines
from egress_router.relay.own_connections import save_first_packets
from egress_router.relay.tunnel import Relay
from egress_router.service.accept_pauses import AcceptPauses
from egress_router.service.mode import Mode
from egress_router.upstreams.policy_names import PolicyNames

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Mapping

    from egress_router.clock import Clock
    from egress_router.grammar.acl import AccessList
    from egress_router.grammar.egress_policy import EgressPolicy
    from egress_router.http_proxy.access_control import Names
    from egress_router.http_proxy.worker_state import Judged
    from egress_router.metrics import Registry
    from egress_router.policy.access_list import Own
    from egress_router.policy.egress_policy import NamesOf
    from egress_router.service.mode import Json, WorkerContext
    from egress_router.settings.http_proxy import HttpProxySettings
    from egress_router.settings.names import NamesSettings
    from egress_router.settings.policy import Guarded

_MAX_DESTINATIONS = 1_000


class MakeNames(Protocol):
    """Makes the resolver of a worker."""

    def __call__(self, settings: NamesSettings, registry: Registry, /) -> Names:
        """Return it, for the running event loop."""


class MakeAccounting(Protocol):
    """Makes what counts and logs the requests of a worker."""

    def __call__(self, registry: Registry, access_log: AccessLog, clock: Clock, /) -> Accounting:
        """Return it."""


def _accounting(registry: Registry, access_log: AccessLog, clock: Clock) -> Accounting:
    kind = DebugAccounting if log.get("http_proxy").tells_debug else Accounting
    return kind(registry, access_log, clock)


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What a worker gets from outside; tests pass others.

    `look` returns the pod's own addresses, given its outside interface. Up to `max_turned_away` clients are
    kept until they have read that they are over a limit; others are told so and closed at once. After
    `reads_in_turn` reads of one socket others have their turn. A client has `hello_seconds` for its first
    byte in a tunnel. `repeats`: the data plane may serve a CONNECT like the same one shortly before.
    """

    names: MakeNames = Resolver
    look: Callable[[str], Own] = seen
    accounting: MakeAccounting = _accounting
    clock: Clock = SYSTEM
    max_turned_away: int = 256
    reads_in_turn: int = TURNS
    hello_seconds: float = HELLO_SECONDS
    repeats: bool = True


REAL: Final = Dependencies()


def mode(settings: HttpProxySettings, needs: Dependencies = REAL) -> Mode[Guarded[AccessList]]:
    """Return the mode `http-proxy`."""
    return Mode(
        name="http-proxy",
        parse=settings.source.parser(partial(acl.parse, sources=settings.sources)),
        ports=lambda _: frozenset({settings.port, *dict(settings.transparent_ports)}),
        build=lambda context, rules: HttpProxyServer(settings, context, rules, needs),
        summary=lambda guarded: (*(rule.text for rule in guarded.rules.rules), *guarded.policy_lines()),
    )


class HttpProxyServer:
    """One worker's proxy; see `egress_router.service.mode.Server`."""

    def __init__(
        self,
        settings: HttpProxySettings,
        context: WorkerContext,
        rules: Guarded[AccessList],
        needs: Dependencies,
    ) -> None:
        self._rules = rules.rules
        self._policy = rules.policy
        self._drain_seconds = context.drain_seconds
        self._transparent = dict(settings.transparent_ports)
        self._own = OwnAddresses(
            frozenset({settings.port, settings.proxy.runtime.admin_port, *self._transparent}),
            partial(needs.look, settings.proxy.interface),
        )
        self._resolver = needs.names(settings.names, context.registry)
        self._plane = DataPlane(
            context.loop,
            context.limiter.limits,
            own=context.shared.own,
            most_held=settings.proxy.relay_bytes // settings.proxy.workers,
        )
        access = AccessControl(
            context.loop,
            self._resolver,
            self._own,
            settings.connect_ports,
            report_only=settings.report_only,
        )
        access.apply(rules.rules, rules.policy)
        self.worker = _worker_state(settings, context, needs, access, self._plane)
        self._plane.tell_pauses(AcceptPauses(context.registry))
        self._acceptors: dict[int, Acceptor] = {}
        self._turned_away = TurnedAway(self.worker, context.limiter, needs.max_turned_away)
        self._listening: tuple[int, ...] = ()
        self._policy_names = PolicyNames(context.loop, self._resolver, self._named)
        self._follow(rules.policy)

    def apply(self, rules: Guarded[AccessList]) -> None:
        """Decide by these rules; open connections that they do not allow have the drain time to end."""
        self._rules = rules.rules
        self._policy = rules.policy
        self.worker.access.apply(rules.rules, rules.policy)
        self._follow(rules.policy)
        self._decide_again()

    def _follow(self, policy: EgressPolicy | None) -> None:
        self._policy_names.follow(() if policy is None else policy.dns_names)

    def _named(self, names: NamesOf) -> None:
        self.worker.access.follow(names)
        self._decide_again()

    def _decide_again(self) -> None:
        self.worker.known.forget()
        judged: Iterable[Judged] = chain(self.worker.connections, self.worker.known)
        for each in judged:
            if each.is_denied():
                self.worker.deadlines.add(self._drain_seconds, each.end_if_denied)

    def listen(self, listeners: Mapping[int, socket.socket]) -> None:
        """Accept on exactly these sockets, by port."""
        self._own.add_ports(frozenset(listener.getsockname()[1] for listener in listeners.values()))
        for listener in listeners.values():
            save_first_packets(listener)
        self._listening = tuple(sorted(listeners))
        self.worker.known.forget()  # decisions depend on the pod's ports
        self._plane.listen_on(listeners, partial(self._acceptor, listeners))

    def stop_accepting(self) -> None:
        """Accept no more; connections without a request under way are closed."""
        self._plane.listen_on({}, self._acceptors.__getitem__)
        self._plane.catch_up()  # clients that it has already admitted are still served
        self._listening = ()
        self.worker.draining = True
        for each in list(self.worker.connections):
            each.drain()
        self.worker.pool.close()

    def open_connections(self) -> int:
        """How many client connections are open."""
        return len(self.worker.connections) + self.worker.known.open()

    def close_all(self) -> None:
        """Close every connection now."""
        self._plane.listen_on({}, self._acceptors.__getitem__)
        self._plane.catch_up()
        for each in list(self.worker.connections):
            each.close_now()
        self._turned_away.close()
        self.worker.pool.close()
        self._policy_names.close()
        self._resolver.close()
        self._plane.close(chain(self._acceptors.values(), self.worker.known))
        self.worker.deadlines.close()

    def status(self) -> dict[str, Json]:
        """What `/status` shows of this worker."""
        accounting = self.worker.accounting
        return {
            "rules": accounting.metrics.rule_hits(self._rules.rules),
            "policy": [{**each} for each in accounting.policy_denials.shown(self._policy)],
            "denied": accounting.latest_denied(),
            "upstreams": [],
            "destinations": self._destinations(),
            "listeners": list(self._listening),
        }

    def _destinations(self) -> list[Json]:
        """Return the destinations with the most open connections."""
        targets = (connection.target for connection in self.worker.connections)
        found = Counter((each.host, each.port) for each in targets if each is not None)
        for known in self.worker.known:
            found[known.target.host, known.target.port] += known.open
        return [
            {"destination": printed(*target), "open": count}
            for target, count in found.most_common(_MAX_DESTINATIONS)
            if count
        ]

    def _acceptor(self, listeners: Mapping[int, socket.socket], port: int) -> Acceptor:
        family, origin_port = listeners[port].family, self._transparent.get(port)
        if port in self._acceptors:  # its socket is closed; it is freed when the last of its clients has gone
            self._plane.release_line(self._acceptors[port])
        self._acceptors[port] = Acceptor(self.worker, self._turned_away, port, origin_port, family)
        return self._acceptors[port]


def _worker_state(
    settings: HttpProxySettings,
    context: WorkerContext,
    needs: Dependencies,
    access: AccessControl,
    plane: DataPlane,
) -> WorkerState:
    """Return what the connections of a worker share, with a data plane that counts for it."""
    access_log = AccessLog(everything=settings.proxy.access_log)
    accounting = needs.accounting(context.registry, access_log, needs.clock)
    # The bytes of a tunnel are counted while they pass, not when it ends.
    plane.count(context.registry, accounting.metrics.sent, accounting.metrics.received)
    deadlines = Deadlines(context.loop, clock=needs.clock)
    tells_debug = isinstance(accounting, DebugAccounting)
    # If each request is logged, Python has to serve it.
    repeats = needs.repeats and not tells_debug and not access_log.everything
    return WorkerState(
        loop=context.loop,
        poller=context.poller,
        plane=plane,
        deadlines=deadlines,
        relay=Relay(plane, context.poller),
        access=access,
        accounting=accounting,
        known=KnownConnects(plane, access, accounting, settings, needs.clock, active=repeats),
        limits=settings.limits,
        pool=UpstreamPool(deadlines, settings.limits.keepalive_seconds),
        client_watch=ClientWatch(deadlines),
        clock=needs.clock,
        sni=settings.sni,
        sources=settings.sources,
        reads_in_turn=needs.reads_in_turn,
        hello_seconds=needs.hello_seconds,
    )
