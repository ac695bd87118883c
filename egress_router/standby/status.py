"""The status of a router in its group, for people, probes and metrics."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from egress_router.service.standby_monitor import HELD_BY, STANDING_BY
from egress_router.standby.protocol.role import Role


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One other router of the group."""

    mac: str
    address: str | None
    role: Role
    ways: tuple[str, ...]  # the channels on which it was heard lately: wire, pod network


@dataclass(frozen=True, slots=True)
class Status:
    """The role of this router, who is active, and what happened so far."""

    role: Role = Role.LISTENING
    sources: tuple[str, ...] = ()
    holder: str | None = None  # the hardware address of the active router, if one is heard
    peers: tuple[PeerStatus, ...] = ()
    take_overs: int = 0
    losses: int = 0  # how often this router was active and lost its lease
    since: float = 0.0  # time of day
    took: float | None = None  # seconds from the last sign of the former active router to the take-over
    rival: str | None = None  # the hardware address of a station outside the group that has the address
    witness: str | None = None  # what is wrong with the Lease, if there is one
    members: int | None = None  # how many routers the Lease names

    def as_json(self) -> str:
        """Return the status as one line, for the other processes of the pod."""
        fields = asdict(self) | {"role": self.role.name.lower(), "problems": self.problems()}
        fields["peers"] = [asdict(peer) | {"role": peer.role.name.lower()} for peer in self.peers]
        return json.dumps(fields) + "\n"

    def problems(self) -> tuple[str, ...]:
        """Return why this router is not the active one; empty if it is."""
        if self.role is Role.ACTIVE:
            return ()
        source = self.sources[0] if self.sources else "the source address"
        if self.role is Role.LEAVING:
            return ("the router is ending",)
        if self.rival is not None:
            return (f"{source} is in use by the station {self.rival}, which is not a router of this group",)
        if self.holder is not None:
            return (f"{STANDING_BY}{source}{HELD_BY}{self.holder}",)
        if self.role is Role.LISTENING:
            return (f"starting; it is not known yet who else has {source}",)
        and_why = "" if self.witness is None else f", and {self.witness}"
        return (f"{STANDING_BY}no router is heard that holds {source}{and_why}",)
