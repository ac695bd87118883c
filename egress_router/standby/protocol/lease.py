"""The lease, which is the right to send: which answered request gives it, and until when. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from egress_router.standby.protocol.role import Role

if TYPE_CHECKING:
    from egress_router.standby.protocol.state import State

NONE = (0, -math.inf)


def current_lease(state: State) -> tuple[int, float]:
    """Return the request whose answers give the lease, and the time at which the lease ends."""
    arbiter = state.arbiter
    if arbiter is None:
        return _by_wire(state)
    if arbiter.is_alone:
        return arbiter.sole_request, arbiter.sole_until
    if not arbiter.partner:
        return NONE
    request, until = state.requests.until(_least_acked(state, [arbiter.partner]))
    # The timer may have started later than the request was decided on, by less than a lease.
    return (request, until) if until + state.timing.lease <= arbiter.bound else NONE


def _by_wire(state: State) -> tuple[int, float]:
    """Return the same without an arbiter.

    All routers that are heard have to acknowledge. If one is missing that did not announce its end, the
    wire may be cut in two: then only the side with the gateway may go on.
    """
    peers, gateway = state.peers, state.gateway
    request = state.requests.last
    others = [peer.last.sender for peer in peers.live(state.now)]
    if others:
        request = _least_acked(state, others)
    elif state.role is Role.CLAIMING and not gateway.has_answered_since(state.since):
        return NONE  # another router was heard before, but now none is
    missing = max((peer.heard for peer in peers if peer.last.sender not in others), default=None)
    if gateway.is_known and missing is not None:
        if state.now < gateway.steady_from or gateway.requested_at < missing + state.timing.silent:
            return NONE  # if the wire was cut, an answer from before proves nothing
        request = min(request, gateway.request)
    return state.requests.until(request)


def _least_acked(state: State, others: list[int]) -> int:
    least = min(map(state.peers.acked_by, others))
    return least if least > state.requests.void else 0
