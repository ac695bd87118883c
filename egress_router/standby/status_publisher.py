"""What a router has to say of itself: its standing, kept up to date for processes and for people."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.standby.protocol.role import Role
from egress_router.standby.status import Standing

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.clock import Clock
    from egress_router.grammar.address import IPAddress
    from egress_router.standby.protocol.state_machine import Machine
    from egress_router.standby.transport.contacts import Acquaintances

_log = log.get("standby")


class Chronicle:
    """The standing; `changed` hears of every new one."""

    def __init__(
        self, sources: tuple[IPAddress, ...], changed: Callable[[Standing], None], clock: Clock
    ) -> None:
        self.standing = Standing(sources=tuple(map(str, sources)), since=clock.time())
        self.trouble: str | None = None  # what is wrong with the witness
        self._changed = changed
        self._clock = clock

    def took_over(self, seconds: float) -> None:
        """Note a take-over, so long after the last sign of the former active one."""
        standing = self.standing
        self.standing = replace(standing, take_overs=standing.take_overs + 1, took=seconds)
        _log.info("took over", source=", ".join(standing.sources), after=f"{seconds:.3f}s")

    def stood_down(self) -> None:
        """Note that the right was lost."""
        self.standing = replace(self.standing, losses=self.standing.losses + 1)
        _log.warning("stood down", source=", ".join(self.standing.sources))

    def publish(self, machine: Machine, known: Acquaintances, rival: str | None) -> None:
        """Put out a new standing where something changed."""
        now = self._clock.monotonic()
        active = machine.peers.active(now)
        if active is not None:
            known.held_by(known.mac_of(active.last.sender), now)
        members = None if machine.witness is None else machine.witness.members
        standing = replace(
            self.standing,
            role=machine.role,
            holder=None if machine.role is Role.ACTIVE else known.holder(now),
            peers=tuple(known.seen(machine.peers, now)),
            rival=rival,
            witness=self.trouble,
            members=None if members is None else len(members),
        )
        if standing.role is not self.standing.role:
            standing = replace(standing, since=self._clock.time())
        if standing != self.standing:
            self.standing = standing
            self._changed(standing)

    def end(self) -> None:
        """Put the last one out."""
        self._changed(self.standing)
