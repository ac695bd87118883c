"""Executes the commands of the state machine, and tells it if the kernel refused one. A thin shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router import log
from egress_router.kernel.fence import FenceError, GateClosedError
from egress_router.kernel.link_address import HardwareAddressInUseError
from egress_router.standby.protocol.commands import (
    CloseGate,
    ExtendLease,
    PrepareTakeOver,
    ProbeAddresses,
    ProbeGateway,
    SendMessage,
    StartTimer,
    TakeOver,
)
from egress_router.standby.protocol.role import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from egress_router.clock import Clock
    from egress_router.standby.effects import Effects
    from egress_router.standby.protocol.commands import AskArbiter, Command
    from egress_router.standby.protocol.state_machine import StateMachine
    from egress_router.standby.status_publisher import StatusPublisher
    from egress_router.standby.transport.contacts import ContactTable

_log = log.get("standby")


class Executor:
    """Passes each command to the fence, to the network or to the arbiter."""

    def __init__(
        self,
        machine: StateMachine,
        effects: Effects,
        contacts: ContactTable,
        status: StatusPublisher,
        ask: Callable[[AskArbiter], None] | None,
        clock: Clock,
    ) -> None:
        self._machine = machine
        self._effects = effects
        self._contacts = contacts
        self._status = status
        self._ask = ask
        self._clock = clock

    def execute(self, commands: Sequence[Command]) -> None:
        """Execute commands in their order; if the kernel refuses one, the gate is closed."""
        try:
            for command in commands:
                self._act(command)
            now = self._clock.monotonic()
            if self._machine.role is not Role.ACTIVE and not self._machine.is_ready(now):
                self._effects.restore_mac(now)
        except FenceError as error:
            _log.error("the fence is gone; putting it up again", error=error.strerror)
            self._effects.restore_fence()
            self._recover()
        except GateClosedError:
            _log.warning("the lease had ended before it was extended; standing by")
            self._recover()
        except HardwareAddressInUseError:
            _log.warning("another pod on this node has the hardware address; two of a group need two nodes")
            self._effects.close_gate()
            self._recover()

    def _recover(self) -> None:
        for command in self._machine.fence_failed(self._clock.monotonic()):
            if isinstance(command, CloseGate):
                self._close()

    def _act(self, command: Command) -> None:
        if isinstance(command, StartTimer):
            self._effects.start_timer(command.request, command.seconds)
        elif isinstance(command, SendMessage):
            self._effects.send(command.message)
        elif isinstance(command, ExtendLease):
            self._effects.extend_lease(command.request)
        elif isinstance(command, ProbeGateway):
            self._effects.probe(command.request, is_active=self._machine.role is Role.ACTIVE)
        elif isinstance(command, ProbeAddresses):
            self._effects.probe_addresses()
        elif isinstance(command, TakeOver):
            self._open(command.request)
        elif isinstance(command, CloseGate):
            self._close()
        elif isinstance(command, PrepareTakeOver):
            self._effects.prepare()
        elif self._ask is not None:
            self._ask(command)

    def _open(self, request: int) -> None:
        self._effects.open_gate(request)
        self._status.took_over(self._clock.monotonic() - self._contacts.active_heard)

    def _close(self) -> None:
        self._effects.close_gate()
        if self._machine.role is not Role.LEAVING:
            self._status.stepped_down()
