"""Messages between routers, and commands of the state machine for its shell. Pure values."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from egress_router.standby.protocol.role import Role

Members = frozenset[int]


class Message(NamedTuple):
    """One message of a router to all others; `sender` is one run of one router, `seq` its message number.

    An acknowledgement says: until my hold-off is over I do not open my gate, except by your hand-over. It
    answers the message `ack_seq` of the router `ack_to`. A hand-over says: my gate is closed, open yours. It
    answers `hand_over_seq`. 0 means: nobody, or nothing.
    """

    sender: int
    seq: int
    role: Role
    able: bool  # the gateway answers it, and it has not just failed
    epoch: int  # the number of take-overs that it knows of
    term: int  # the term of the arbiter that it knows
    ack_to: int
    ack_seq: int
    hand_over_to: int
    hand_over_seq: int
    depends_on: int  # the router whose acknowledgements an active one needs; 0: nobody's, or everybody's
    successor: int = 0  # the router that an active one, which is about to leave, asks to get ready
    ready: bool = False  # it has done all slow steps of a take-over


class StartTimer(NamedTuple):
    """Start the kernel's timer of a request; this comes before the request is sent."""

    request: int
    seconds: float


class SendMessage(NamedTuple):
    """Send a message on all channels."""

    message: Message


class ProbeGateway(NamedTuple):
    """Ask for the gateway's hardware address; an answer belongs to `request`."""

    request: int


class ProbeAddresses(NamedTuple):
    """Ask on the wire who has the source addresses."""


class ExtendLease(NamedTuple):
    """Keep the gate open while the timer of `request` runs."""

    request: int


class TakeOver(NamedTuple):
    """Become active: take the hardware address, open the gate while the timer of `request` runs, announce."""

    request: int


class CloseGate(NamedTuple):
    """Close the gate now, and give up the shared hardware address."""


class PrepareTakeOver(NamedTuple):
    """Do the slow steps of a take-over, behind the closed gate: the lease will come soon."""


class AskArbiter(NamedTuple):
    """Ask the arbiter: read it (`members` is None), or replace it if it still has `version`."""

    token: int
    members: Members | None
    term: int
    version: str


class ArbiterAnswer(NamedTuple):
    """What the arbiter holds now; `applied`: the write succeeded. None: the field is not known."""

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
