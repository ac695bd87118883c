"""Trials on a pair of routers: one fault each, and what it did to a client and on the wire."""

from __future__ import annotations

import enum
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.lab import wiring
from egress_router.lab.client import CONNECT_SECONDS, EVERY, Client
from egress_router.lab.pair import Pair
from egress_router.standby.agent import TICK
from egress_router.standby.protocol.timing import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from egress_router.lab.side import Side
    from egress_router.lab.wire_watch import Frame

_SETTLE_SECONDS = 30.0
_AFTER = 0.5  # seconds that the client is watched after a take-over
_QUIET = 1.3  # seconds in which a take-over would show: a lease ends, and another router claims
_HEARTBEAT = 2 * DEFAULT.heartbeat + TICK  # seconds between two messages of a standby router, at most
_RESUMED = 0.7  # seconds in which a router that was stopped would send, if it could


class Fault(enum.Enum):
    """What happens to a router, or to the networks between the two."""

    TERM = "SIGTERM"
    KILL = "SIGKILL of all processes"
    STOP = "SIGSTOP, SIGCONT later"
    CABLE = "cable pulled"
    WIRE = "wire cut in two"
    POD_NETWORK = "pod network cut"
    BOTH = "wire and pod network cut"
    NODE = "node gone"
    GATEWAY = "gateway restarted"
    STANDBY = "the standby one killed"
    API = "API server hangs"


PLANNED = frozenset({Fault.TERM, Fault.CABLE})  # the active router itself hands over
# The other router takes over.
MOVES = frozenset({Fault.TERM, Fault.KILL, Fault.STOP, Fault.CABLE, Fault.BOTH, Fault.NODE})


@dataclass(frozen=True, slots=True)
class Result:
    """What one trial showed, in seconds.

    `gap` is the longest time without an answered connection, and `machine` the same for connections that go
    through no router. `waited` is how long the other router was ready to run and had no processor. `late` is
    the longest delay of a heartbeat of the router that goes on. `wire` is the time from the last frame of the
    old owner to the first of the new one.
    """

    fault: Fault
    gap: float
    machine: float
    waited: float
    late: float
    wire: float | None
    second_owner: tuple[Frame, ...]
    took: float  # the whole trial


class Trials:
    """Trials one after another on one laboratory."""

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        has_arbiter: bool = False,
        every: float = EVERY,
    ) -> None:
        """Build the laboratory; its client connects every `every` seconds."""
        self._environment = dict(environment or {})
        self._pair = Pair()
        with self._pair.building():
            self._pair.serve()
            if has_arbiter:
                self._environment |= self._pair.serve_api()
            self._client = Client(self._pair, every)

    def close(self) -> None:
        """End everything."""
        self._pair.close()

    def run(self, fault: Fault) -> Result:
        """Run one trial, from a healthy pair to a healthy pair; every frame in between is checked."""
        pair = self._pair
        begun = time.monotonic()
        active = self._healthy()
        other = next(side for side in pair.sides if side is not active)
        pair.wire.forget()
        self._client.forget()
        since, clock, waited = time.monotonic(), time.time(), other.waited()
        self._begin(fault, active, other)
        if fault in MOVES:
            pair.await_active(other)
            time.sleep(_AFTER + CONNECT_SECONDS)
        else:
            time.sleep(_QUIET + CONNECT_SECONDS)
        gap, machine = self._client.missed(since, time.monotonic() - CONNECT_SECONDS)
        waited = max(0.0, other.waited() - waited)  # a killed router has no figures any more
        survivor = active if fault is Fault.STANDBY else other
        late = max(0.0, pair.wire.heartbeat_gap(f"cable{survivor.number}") - _HEARTBEAT)
        wire = self._silence(active, other, clock) if fault in MOVES else None
        self._finish(fault, active)
        self._healthy()
        took = time.monotonic() - begun
        return Result(fault, gap, machine, waited, late, wire, tuple(pair.wire.second_owner()), took)

    def _silence(self, old: Side, new: Side, since: float) -> float:
        """Return for how many seconds nobody spoke for the address."""
        frames = sorted(self._pair.wire.frames, key=lambda frame: frame.at)
        taken = next(each.at for each in frames if each.at >= since and each.cable == f"cable{new.number}")
        before = (each.at for each in frames if each.at < taken and each.cable == f"cable{old.number}")
        return taken - max(before, default=since)

    def _healthy(self) -> Side:
        """Start routers that do not run, and wait until the pair is healthy; return the active one."""
        pair = self._pair
        for side in pair.sides:
            if side.router is None or side.router.poll() is not None:
                pair.start(side, self._environment)
        return pair.await_healthy()

    def _begin(self, fault: Fault, active: Side, other: Side) -> None:
        pair = self._pair
        steps: dict[Fault, Callable[[], object]] = {
            Fault.TERM: lambda: active.signal(signal.SIGTERM),
            Fault.KILL: lambda: active.signal(signal.SIGKILL),
            Fault.STOP: lambda: active.signal(signal.SIGSTOP),
            Fault.CABLE: lambda: wiring.set_down(pair.gateway, f"cable{active.number}"),
            Fault.WIRE: lambda: pair.isolate(other),
            Fault.POD_NETWORK: lambda: wiring.set_down(pair.network, f"pod{other.number}"),
            Fault.BOTH: lambda: pair.cut_off(active),
            Fault.NODE: lambda: pair.lose_node(active),
            Fault.GATEWAY: pair.restart_gateway,
            Fault.STANDBY: lambda: other.signal(signal.SIGKILL),
            Fault.API: self._pause_api,
        }
        steps[fault]()

    def _pause_api(self) -> None:
        if self._pair.api is not None:
            self._pair.api.pause()

    def _finish(self, fault: Fault, active: Side) -> None:
        pair = self._pair
        if fault in {Fault.TERM, Fault.KILL} and active.router is not None:
            active.router.wait(_SETTLE_SECONDS)
        if fault is Fault.STOP:
            active.signal(signal.SIGCONT)
            time.sleep(_RESUMED)
        elif fault is Fault.NODE:
            pair.restore_node(active)
        elif fault is Fault.API and pair.api is not None:
            pair.api.resume()
        else:
            pair.heal()
