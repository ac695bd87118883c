"""What the state machine says and hears: messages of routers, and commands for the shell. Pure values."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from egress_router.standby.protocol.role import Role

Members = frozenset[int]


class Message(NamedTuple):
    """One message of a router to all others; `sender` is one run of one router, `seq` its running number.

    An acknowledgement says: until my hold-off is over I do not open my gate, except by your hand-over; it
    answers the message `ack_seq` of the router `ack_to`. A hand-over says: my gate is closed, open yours; it
    answers `hand_over_seq`. 0 means: nobody, or nothing.
    """

    sender: int
    seq: int
    role: Role
    able: bool  # the gateway answers it
    epoch: int  # how many take-overs it knows of
    term: int  # which membership of the arbiter it believes in
    ack_to: int
    ack_seq: int
    hand_over_to: int
    hand_over_seq: int
    depends_on: int  # the one whose acknowledgements an active router needs; 0: nobody's, or everybody's
    successor: int = 0  # the one that an active router that is about to leave asks to make itself ready
    ready: bool = False  # it has done everything for a take-over that takes time


class StartTimer(NamedTuple):
    """Start the kernel's timer of a request, before the request is sent."""

    request: int
    seconds: float


class SendMessage(NamedTuple):
    """Send a message on all channels."""

    message: Message


class ProbeGateway(NamedTuple):
    """Ask the gateway who it is; an answer belongs to `request`."""

    request: int


class ProbeAddresses(NamedTuple):
    """Ask the wire who has the source addresses."""


class ExtendLease(NamedTuple):
    """Keep the gate open for as long as the timer of `request` runs."""

    request: int


class TakeOver(NamedTuple):
    """Become active: take the hardware address, open the gate while the timer of `request` runs, announce."""

    request: int


class CloseGate(NamedTuple):
    """Close the gate now, and give the hardware address up."""


class PrepareTakeOver(NamedTuple):
    """Do what a take-over needs and what takes time, behind the closed gate: the lease will come soon."""


class AskArbiter(NamedTuple):
    """Ask the arbiter: read it (`members` is None), or replace it if it still has `version`."""

    token: int
    members: Members | None
    term: int
    version: str


class ArbiterAnswer(NamedTuple):
    """What the arbiter holds now, or `applied` what was asked; None for a field that is not known."""

    token: int
    applied: bool
    members: Members | None
    term: int
    version: str | None


Command = (
    StartTimer
    | SendMessage
    | ProbeGateway
    | ProbeAddresses
    | ExtendLease
    | TakeOver
    | CloseGate
    | PrepareTakeOver
    | AskArbiter
)
