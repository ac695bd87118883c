"""What to ask the arbiter, and which members it should hold. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.standby.protocol.role import Role

if TYPE_CHECKING:
    from egress_router.standby.protocol.arbiter import Arbiter
    from egress_router.standby.protocol.commands import Members
    from egress_router.standby.protocol.operations import Operations
    from egress_router.standby.protocol.peers import Peer
    from egress_router.standby.protocol.state import State


def consult(state: State, arbiter: Arbiter, operations: Operations) -> None:
    """Read or write the members, if it is time to."""
    if not arbiter.may_ask(state.now):
        return
    is_due = state.now - arbiter.checked >= state.timing.poll
    if not arbiter.fresh:
        if is_due or _is_urgent(state, arbiter):
            operations.read(arbiter)
        return
    if arbiter.is_alone and state.role is Role.ACTIVE and _share_lease(state, arbiter, operations):
        return
    wanted = _wanted(state, arbiter)
    if wanted is not None:
        operations.write(arbiter, wanted)
    elif is_due and not arbiter.is_member:
        operations.read(arbiter)


def _share_lease(state: State, arbiter: Arbiter, operations: Operations) -> bool:
    """Give up the lease of the only member if the gateway is silent, or share it with a standby router.

    Returns whether it did one of them.
    """
    if not state.gateway.is_heard(state.now):
        operations.step_down()
        operations.write(arbiter, frozenset())
        return True
    partner = _new_partner(state)
    if partner is None:
        return False
    # The lease by acknowledgements has to begin before that of the only member is given up.
    operations.extend_lease(*state.requests.until(partner.acked))
    operations.write(arbiter, frozenset({state.me, partner.last.sender}))
    return True


def _is_urgent(state: State, arbiter: Arbiter) -> bool:
    """Return whether the lease depends on the arbiter now."""
    if state.role is Role.ACTIVE:
        return not state.peers.is_live(arbiter.partner, state.now)
    return state.role is Role.CLAIMING or state.role is Role.LEAVING


def _new_partner(state: State) -> Peer | None:
    """Return a standby router whose acknowledgement is young enough for a lease of two members."""
    for peer in state.peers.live(state.now):
        _, until = state.requests.until(peer.acked)
        if peer.last.role is Role.STANDBY and until > state.now + state.timing.lease / 2:
            return peer
    return None


def _wanted(state: State, arbiter: Arbiter) -> Members | None:
    """Return the members that the arbiter should hold now; None if nothing has to be written."""
    if state.role is Role.ACTIVE:
        return _wanted_active(state, arbiter)
    if state.role is Role.CLAIMING:
        return _wanted_claiming(state, arbiter)
    if state.role is Role.LEAVING:
        is_bound = state.hold_off.is_running(state.now)
        return frozenset() if not is_bound and state.is_last(arbiter) else None
    if state.role is not Role.STANDBY or not arbiter.partner:
        return None
    is_due = arbiter.in_doubt or state.now - arbiter.since >= 1.4 * state.timing.refresh
    return arbiter.members if is_due else None


def _wanted_active(state: State, arbiter: Arbiter) -> Members | None:
    now, timing, alone = state.now, state.timing, arbiter.alone
    if arbiter.is_alone:
        is_due = not arbiter.sole_request or now - arbiter.renewed >= timing.renew
        return alone if is_due else None
    partner = arbiter.partner
    if not partner:
        return None
    peer = state.peers.get(partner)
    if peer is None or peer.last.role is Role.LEAVING:
        return alone
    if not state.peers.is_live(partner, now):
        # A router that is cut off from both gateway and partner leaves the lease to the partner.
        return alone if state.gateway.has_answered_since(peer.heard) else None
    is_due = arbiter.in_doubt or now - arbiter.since >= timing.refresh
    return arbiter.members if is_due else None


def _wanted_claiming(state: State, arbiter: Arbiter) -> Members | None:
    now, timing, alone = state.now, state.timing, arbiter.alone
    if not state.gateway.is_heard(now):
        return None
    if arbiter.is_alone:
        return None if now < arbiter.sole_until - timing.lease else alone
    partner = arbiter.partner
    if not partner:
        return alone if arbiter.is_stale(now) else None
    peer = state.peers.get(partner)
    is_silent = not state.peers.is_live(partner, now) and (
        peer is None or state.gateway.has_answered_since(peer.heard)
    )
    if is_silent:
        return alone if now >= state.may_open - timing.lead else None
    # Until the outcome of an attempt to be the only member is known, neither of the two may acknowledge.
    return arbiter.members if arbiter.in_doubt else None
