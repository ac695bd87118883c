"""The status of a router, kept up to date for other processes and for people."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.standby.protocol.role import Role
from egress_router.standby.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.clock import Clock
    from egress_router.grammar.address import IPAddress
    from egress_router.standby.protocol.state_machine import StateMachine
    from egress_router.standby.transport.contacts import ContactTable

_log = log.get("standby")


class StatusPublisher:
    """Holds the status; `changed` is called with every new one."""

    def __init__(
        self, sources: tuple[IPAddress, ...], changed: Callable[[Status], None], clock: Clock
    ) -> None:
        self.status = Status(sources=tuple(map(str, sources)), since=clock.time())
        self.trouble: str | None = None  # what is wrong with the arbiter
        self._changed = changed
        self._clock = clock

    def took_over(self, seconds: float) -> None:
        """Record a take-over, `seconds` after the last sign of the former active router."""
        status = self.status
        self.status = replace(status, take_overs=status.take_overs + 1, took=seconds)
        _log.info("took over", source=", ".join(status.sources), after=f"{seconds:.3f}s")

    def stepped_down(self) -> None:
        """Record that the lease was lost."""
        self.status = replace(self.status, losses=self.status.losses + 1)
        _log.warning("stood down", source=", ".join(self.status.sources))

    def publish(self, machine: StateMachine, contacts: ContactTable, rival: str | None) -> None:
        """Publish a new status if something changed."""
        now = self._clock.monotonic()
        active = machine.peers.active(now)
        if active is not None:
            contacts.note_holder(contacts.mac_of(active.last.sender), now)
        members = None if machine.arbiter is None else machine.arbiter.members
        status = replace(
            self.status,
            role=machine.role,
            holder=None if machine.role is Role.ACTIVE else contacts.holder(now),
            peers=tuple(contacts.seen(machine.peers, now)),
            rival=rival,
            witness=self.trouble,
            members=None if members is None else len(members),
        )
        if status.role is not self.status.role:
            status = replace(status, since=self._clock.time())
        if status != self.status:
            self.status = status
            self._changed(status)

    def end(self) -> None:
        """Publish the last status."""
        self._changed(self.status)
