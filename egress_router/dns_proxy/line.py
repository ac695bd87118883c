"""One line of the rules: where its connections go now, and what the data plane reports of them."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Final

from egress_router.dns_proxy import access_log
from egress_router.dns_proxy.nearby import Nearby
from egress_router.grammar.forward import printed_forward
from egress_router.records import ALLOWED, Record
from egress_router.relay.dataplane import Forwarding
from egress_router.relay.dial import REASONS as DIAL_REASONS
from egress_router.relay.dial import DialReason
from egress_router.relay.sources import ways
from egress_router.relay.tunnel import REASONS as CLOSE_REASONS
from egress_router.relay.tunnel import Closing
from egress_router.service.connection_limiter import LIMITS
from egress_router.upstreams.forbidden import ForbiddenReason
from egress_router.upstreams.pool import SUCCESSES_UP

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.dns_proxy.access_log import AccessLog
    from egress_router.grammar.address import Target
    from egress_router.grammar.egress_policy import PolicyEntry
    from egress_router.grammar.forward import Forward
    from egress_router.relay._plane import Failures
    from egress_router.relay.dataplane import DataPlane
    from egress_router.relay.news import End, Identity, Sums
    from egress_router.service.connection_limiter import ConnectionLimiter
    from egress_router.settings.dns_proxy import DnsProxySettings
    from egress_router.upstreams.destination import Destination
    from egress_router.upstreams.health import Checks

    Aim = tuple[tuple[Target, ...], int, ForbiddenReason | None]

# Reasons of plane.h.
_NO_ADDRESS: Final = 10
_FORBIDDEN: Final = 11
_LOOP: Final = 15
# Failures that say nothing about the address that was tried.
_OUR_OWN: Final = frozenset({DialReason.NO_DESCRIPTOR, DialReason.SOURCE_NOT_HELD})
# Why a client was never connected.
_REFUSALS: Final = {
    **{number: reason.value for number, reason in enumerate(CLOSE_REASONS)},
    **{number: reason.value for number, reason in DIAL_REASONS.items()},
    **dict.fromkeys(LIMITS, access_log.LIMIT),
    _LOOP: ForbiddenReason.LOOP.value,
}


class Tools:
    """What all lines of a forwarder share."""

    def __init__(
        self,
        plane: DataPlane,
        checks: Checks,
        log: AccessLog,
        limiter: ConnectionLimiter,
        settings: DnsProxySettings,
        denied_by_policy: Callable[[Destination], PolicyEntry | None],
    ) -> None:
        self.denied_by_policy = denied_by_policy
        self.plane = plane
        self.checks = checks
        self.log = log
        self.limiter = limiter
        self.connect_seconds = settings.connect_seconds
        self.idle_seconds = settings.idle_seconds
        self.sources = settings.sources
        self.nearby = Nearby(settings.proxy.interface)


class LineInForce(Forwarding):
    """A line in force, or a removed one whose connections still have time to end."""

    __slots__ = ("_aim", "_rule", "_tools", "destination", "forward")

    def __init__(self, tools: Tools, forward: Forward, destination: Destination) -> None:
        # Workers should not all begin with the same address.
        turn = random.randrange(1 << 16)  # noqa: S311 - only spreads
        super().__init__(tools.connect_seconds, tools.idle_seconds, turn, tools.log.tells_each)
        self._tools = tools
        self.forward = forward
        self._rule = printed_forward(forward)
        self.destination = destination
        self._aim: Aim = ((), 0, None)

    def aim(self) -> None:
        """Send new connections to where the destination is now, if that has changed."""
        destination = self.destination
        aim = (destination.targets, destination.good, destination.left_out)
        if aim != self._aim:
            self._take(aim)

    def end(self) -> None:
        """Close its connections, and forget it."""
        self.destination.leave(self._asked)
        self._tools.plane.end_line(self)
        self._tools.plane.release_line(self)

    def wanted(self) -> None:
        """Ask for the addresses of the name at once: a client waits."""
        if self.destination.targets or self.destination.left_out is not None:
            self._asked()
        else:
            self.destination.wait(self._asked)

    def connected(
        self, client: str, target: Target, seconds: float, failures: Failures, identity: Identity
    ) -> None:
        """Log that a client has its connection."""
        self._observe(failures)
        self._tools.checks.observe(target, answered=True)
        make_record = partial(self.record, client, identity, target)
        self._tools.log.connected(self._rule, make_record, seconds)

    def ended(self, end: End) -> None:
        """Log the end of a connection, or why there was none."""
        make_record = partial(self.record, end.client, end.identity, end.target)
        if end.target is not None:
            closing = Closing(CLOSE_REASONS[end.reason], end.sent, end.received, end.seconds, end.first_byte)
            self._tools.log.closed(self._rule, make_record, closing, end.connect_seconds)
            return
        self._observe(end.failures)
        result, denied_by = self._refused(end.reason), None
        if result == ForbiddenReason.POLICY.value:
            entry = self._tools.denied_by_policy(self.destination)
            denied_by = result if entry is None else entry.described
        self._tools.log.refused(self._rule, make_record, result, denied_by, end.seconds)

    def summed(self, sums: Sums) -> None:
        """Count connections for which no record is written."""
        self._tools.log.summed(self._rule, sums)
        for reason, count in sums.refused:
            for _ in range(count - 1):
                self._refused(reason)
            self._tools.log.refused_many(self._rule, self._refused(reason), count)

    def answered(self, target: Target, count: int) -> None:
        """Count successes for the health of an address; more than SUCCESSES_UP in a row change nothing."""
        for _ in range(min(count, SUCCESSES_UP)):
            self._tools.checks.observe(target, answered=True)

    def reason_of(self, end: End) -> str:
        """Return the name of the reason of an end."""
        if end.target is not None:
            return CLOSE_REASONS[end.reason].value
        return _REFUSALS.get(end.reason) or self._nowhere()

    def _refused(self, reason: int) -> str:
        """Return the name of the reason why a client was closed; count the limit that it reached."""
        if reason in LIMITS:
            self._tools.limiter.refused(LIMITS[reason])
        return _REFUSALS.get(reason) or self._nowhere()

    def _nowhere(self) -> str:
        """Return why there was no target to connect to."""
        destination, left_out = self.destination, self.destination.left_out
        if self.forward.leaving is not None and destination.targets:
            return access_log.OTHER_FAMILY
        return access_log.NO_ADDRESS if left_out is None else left_out.value

    def record(self, client: str, identity: Identity, target: Target | None) -> Record:
        """Return the record of a connection of this line; `target`: what it was connected to."""
        forward, host = self.forward, self.destination.host
        address = None if isinstance(host, str) else host
        if target is not None:
            address = target[0]
        return Record(
            event="connection",
            id=self._tools.log.ids.of(identity.number),
            client=client,
            client_port=identity.client_port,
            local_port=forward.port,
            name=host if isinstance(host, str) else None,
            address=None if address is None else str(address),
            port=forward.target_port,
            source=identity.source or None,
            source_port=identity.source_port or None,
            verdict=ALLOWED,
            rule=self._rule,
        )

    def _asked(self) -> None:
        """Connect or refuse the clients that wait, whatever the answer was."""
        destination = self.destination
        self._take((destination.targets, destination.good, destination.left_out))

    def _take(self, aim: Aim) -> None:
        self._aim = aim
        targets, good, left_out = aim
        leaving, sources = self.forward.leaving, self._tools.sources
        up, down = ways(targets[:good], leaving, sources), ways(targets[good:], leaving, sources)
        all_targets = up.targets + down.targets
        refuses = left_out is not None or (targets and not all_targets)
        self._tools.plane.aim(
            self,
            all_targets,
            len(up.targets),
            _FORBIDDEN if refuses else 0,
            up.sources + down.sources,
            # A line that names a source of the router uses the egress interface.
            self._tools.nearby.of(all_targets) if leaving is None else (),
        )

    def _observe(self, failures: Failures) -> None:
        """Count each address that failed, but only once if several sources were tried."""
        tried = (target for target, number in failures if DIAL_REASONS[number] not in _OUR_OWN)
        for target in dict.fromkeys(tried):
            self._tools.checks.observe(target, answered=False)
