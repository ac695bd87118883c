"""Requests that the data plane serves by itself, because Python has just decided on the same request.

docs/decisions/known-connects.md says what a decision depends on, and how each part of that is respected.
"""

from __future__ import annotations

import socket
from itertools import chain
from typing import TYPE_CHECKING, Final

from egress_router.grammar.leaving import Spread
from egress_router.policy.access_list import Verdict
from egress_router.relay.dataplane import Forwarding
from egress_router.relay.dial import STAGGER, Dialled
from egress_router.relay.sources import ways
from egress_router.tls.client_hello import TLS_RECORD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.clock import Clock
    from egress_router.grammar.acl import Rule
    from egress_router.grammar.address import IPAddress
    from egress_router.http_proxy.access_control import AccessControl
    from egress_router.http_proxy.accounting import Accounting
    from egress_router.http_proxy.http1.target import RequestTarget
    from egress_router.http_proxy.request_info import RequestInfo
    from egress_router.policy.access_list import Decision
    from egress_router.relay.dataplane import DataPlane
    from egress_router.relay.news import End, Known, Sums
    from egress_router.settings.http_proxy import HttpProxySettings

    Key = tuple[Forwarding, bytes, Rule, IPAddress]

# How long a head with a name stays known at most; the hosts file is checked as often.
_NAME_SECONDS: Final = 1.0
# To connect. Python does what takes longer, since it watches the client in the meantime.
_CONNECT_SECONDS: Final = 1.0
# If a connect took more than this part of its time, the data plane does not repeat it.
_SLOW: Final = 1 / 2
_MAX_LINES: Final = 1_000
_STREAM: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
_IDLE: Final = 3  # reasons of plane.h


class KnownConnect(Forwarding):
    """One destination of known CONNECTs, with the decision on it: one address, one rule."""

    __slots__ = ("_address", "_known", "_rule", "decision", "lists", "target")

    def __init__(
        self, known: KnownConnects, info: RequestInfo, rule: Rule, address: IPAddress, name: str | None
    ) -> None:
        """Begin; `name` is the host that a ClientHello has to name; None: the ClientHello is not read."""
        super().__init__(_patience(info.decision), known.idle_seconds, 0, False, False, name)
        self._known = known
        self._address = address
        self._rule = rule
        self.target: RequestTarget = info.target
        self.decision: Decision = info.decision
        self.lists = known.access.lists

    def __repr__(self) -> str:
        return f"<KnownConnect {self.target.authority.decode()} at {self._address} open={self.open}>"

    def summed(self, sums: Sums) -> None:
        """Count requests that have begun, and tunnels that have ended."""
        opened = self._known.accounting.metrics.repeated(self._rule, sums)
        self._known.access.used_again(self.target, opened)

    def ended(self, end: End) -> None:
        """Count a tunnel that ended by its idle time, or one that was cut before it had begun."""
        accounting = self._known.accounting
        if end.reason == _IDLE:
            accounting.idle_end("idle_seconds")
        accounting.metrics.repeated_end(self._rule, end)

    def dialled(self, known: Known) -> Dialled:
        """Return the upstream connection of a CONNECT that the data plane has handed over."""
        family = socket.AF_INET if self._address.version == 4 else socket.AF_INET6
        sock = socket.socket(family, _STREAM, 0, known.descriptor)
        return Dialled(sock, self._address, self.target.port, known.seconds, ())

    def is_denied(self) -> bool:
        """Say whether the present rules would deny the open connections."""
        name = self.decision.full_name
        return not self._known.access.still_allows(self.target, self._address, name)

    def end_if_denied(self) -> None:
        """Close the connections if the present rules do not allow them."""
        if self.open and self.is_denied():
            self._known.plane.end_line(self)


class KnownConnects:
    """All known CONNECTs of a worker; there are none unless `active`."""

    def __init__(
        self,
        plane: DataPlane,
        access: AccessControl,
        accounting: Accounting,
        settings: HttpProxySettings,
        clock: Clock,
        *,
        active: bool,
    ) -> None:
        self.plane = plane
        self.access = access
        self.accounting = accounting
        self.idle_seconds = settings.limits.idle_seconds
        self._clock = clock
        self._sources = settings.sources
        self._looks_at_hello = settings.sni != "off"
        self._active = active
        self._lines: dict[Key, KnownConnect] = {}
        self._left: set[KnownConnect] = set()  # forgotten, but with connections that are still open

    def __iter__(self) -> Iterator[KnownConnect]:
        return chain(self._lines.values(), self._left)

    def remember(self, acceptor: Forwarding, head: bytes, info: RequestInfo, dialled: Dialled) -> None:
        """Let the data plane serve a CONNECT with this head, to this port, like this one, if it went well."""
        decision = info.decision
        rule = decision.rule
        smooth = not dialled.failures and dialled.seconds < _patience(decision) * _SLOW
        if not (self._active and smooth) or rule is None or isinstance(rule.leaving, Spread):
            return
        first = decision.addresses[:1] == (dialled.address,)
        until = self.access.holds_until(info.target, decision)
        seconds = until - self._clock.monotonic()
        if isinstance(info.target.host, str):
            seconds = min(seconds, _NAME_SECONDS)
        if decision.verdict is Verdict.ALLOWED and first and seconds > 0:
            line = self._line(acceptor, info, rule, dialled.address)
            self.plane.know(acceptor, line, head, seconds)

    def remember_name(self, acceptor: Forwarding, info: RequestInfo, dialled: Dialled) -> None:
        """Let the data plane serve TLS to this transparent port, with this server name, like this one."""
        self.remember(acceptor, TLS_RECORD + str(info.target.host).encode(), info, dialled)

    def forget(self) -> None:
        """Let Python decide on every request again: something that decisions depend on has changed."""
        self.plane.forget()
        self._left.update(self._lines.values())
        self._lines.clear()
        for each in [each for each in self._left if not each.open]:
            self._left.remove(each)
            self.plane.release_line(each)

    def open(self) -> int:
        """How many client connections are open that only the data plane knows."""
        return sum(each.open for each in self)

    def _line(self, acceptor: Forwarding, info: RequestInfo, rule: Rule, address: IPAddress) -> KnownConnect:
        target = info.target
        key = (acceptor, target.authority, rule, address)
        known = self._lines.get(key)
        if known is not None:
            return known
        if len(self._lines) >= _MAX_LINES:
            self.forget()  # simple; with so many entries no order of eviction is better
        name = target.host.removesuffix(".") if isinstance(target.host, str) else ""
        line = KnownConnect(self, info, rule, address, name if self._looks_at_hello else None)
        targets, sources = ways([(address, target.port)], rule.leaving, self._sources)
        self.plane.aim(line, targets, 1, sources=sources, near=targets)
        self._lines[key] = line
        return line


def _patience(decision: Decision) -> float:
    """Return how long to wait for the first address; if there are others, the next one is tried soon."""
    return _CONNECT_SECONDS if len(decision.addresses) == 1 else STAGGER
