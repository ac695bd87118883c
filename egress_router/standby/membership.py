"""What the witness should be asked, and what it should hold. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.standby.role import Role

if TYPE_CHECKING:
    from egress_router.standby.actions import Members
    from egress_router.standby.peers import Peer
    from egress_router.standby.situation import Situation
    from egress_router.standby.witness import Witness


def is_urgent(situation: Situation, witness: Witness) -> bool:
    """Say whether the right to send depends on the witness now."""
    if situation.role is Role.ACTIVE:
        return not situation.peers.is_live(witness.partner, situation.now)
    return situation.role is Role.CLAIMING or situation.role is Role.LEAVING


def new_partner(situation: Situation) -> Peer | None:
    """Return a standby one whose promise is so young that this router, alone so far, can lean on it now."""
    for peer in situation.peers.live(situation.now):
        _, until = situation.questions.until(peer.promised)
        if peer.last.role is Role.STANDBY and until > situation.now + situation.timing.lease / 2:
            return peer
    return None


def wanted(situation: Situation, witness: Witness) -> Members | None:
    """Return what the witness should hold now; None where it need not be written."""
    if situation.role is Role.ACTIVE:
        return _wanted_active(situation, witness)
    if situation.role is Role.CLAIMING:
        return _wanted_claiming(situation, witness)
    if situation.role is Role.LEAVING:
        is_free = not situation.promise.is_running(situation.now)
        return frozenset() if is_free and situation.is_last(witness) else None
    if situation.role is not Role.STANDBY or not witness.partner:
        return None
    is_due = witness.in_doubt or situation.now - witness.since >= 1.4 * situation.timing.refresh
    return witness.members if is_due else None


def _wanted_active(situation: Situation, witness: Witness) -> Members | None:
    now, timing, alone = situation.now, situation.timing, witness.alone
    if witness.is_alone:
        is_due = not witness.alone_slot or now - witness.renewed >= timing.renew
        return alone if is_due else None
    partner = witness.partner
    if not partner:
        return None
    peer = situation.peers.get(partner)
    if peer is None or peer.last.role is Role.LEAVING:
        return alone
    if not situation.peers.is_live(partner, now):
        # A router that is cut off from gateway and partner alike leaves the right to the partner.
        return alone if situation.gateway.has_answered_since(peer.heard) else None
    is_due = witness.in_doubt or now - witness.since >= timing.refresh
    return witness.members if is_due else None


def _wanted_claiming(situation: Situation, witness: Witness) -> Members | None:
    now, timing, alone = situation.now, situation.timing, witness.alone
    if not situation.gateway.is_heard(now):
        return None
    if witness.is_alone:
        return None if now < witness.alone_until - timing.lease else alone
    partner = witness.partner
    if not partner:
        return alone if witness.is_stale(now) else None
    peer = situation.peers.get(partner)
    is_silent = not situation.peers.is_live(partner, now) and (
        peer is None or situation.gateway.has_answered_since(peer.heard)
    )
    if is_silent:
        return alone if now >= situation.may_open - timing.lead else None
    # Until it is known whether an attempt to be named alone came true, neither of the two may promise.
    return witness.members if witness.in_doubt else None
