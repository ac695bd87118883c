"""The right to send: which answered question gives it, and until when. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from egress_router.standby.role import Role

if TYPE_CHECKING:
    from egress_router.standby.situation import Situation

NONE = (0, -math.inf)


def right(situation: Situation) -> tuple[int, float]:
    """Return the question whose answers give the right to send, and until when."""
    witness = situation.witness
    if witness is None:
        return _by_wire(situation)
    if witness.is_alone:
        return witness.alone_slot, witness.alone_until
    if not witness.partner:
        return NONE
    slot, until = situation.questions.until(_least_promise(situation, [witness.partner]))
    # The timer may have started later than the question was decided on, by less than a lease.
    return (slot, until) if until + situation.timing.lease <= witness.bound else NONE


def _by_wire(situation: Situation) -> tuple[int, float]:
    """Return the same without a witness.

    All that are heard have to promise. Where one is missing that did not say goodbye, the wire may be cut
    in two: then only the side of the gateway may go on.
    """
    peers, gateway = situation.peers, situation.gateway
    slot = situation.questions.last
    others = [peer.last.sender for peer in peers.live(situation.now)]
    if others:
        slot = _least_promise(situation, others)
    elif situation.role is Role.CLAIMING and not gateway.has_answered_since(situation.since):
        return NONE  # it was heard before, and now nobody is
    missing = max((peer.heard for peer in peers if peer.last.sender not in others), default=None)
    if gateway.is_known and missing is not None:
        if situation.now < gateway.steady_from or gateway.asked < missing + situation.timing.silent:
            return NONE  # an answer from before the cut, if there is one, proves nothing
        slot = min(slot, gateway.slot)
    return situation.questions.until(slot)


def _least_promise(situation: Situation, others: list[int]) -> int:
    least = min(map(situation.peers.promised_by, others))
    return least if least > situation.questions.void else 0
