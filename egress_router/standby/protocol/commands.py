"""What the state machine says and hears: messages of routers, and actions for the shell. Pure values."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from egress_router.standby.protocol.role import Role

Members = frozenset[int]


class Message(NamedTuple):
    """One message of a router to all others; `sender` is one run of one router, `seq` its running number.

    A promise says: until its time is over I do not open my gate, except by your grant; it answers the message
    `promise_seq` of the router `promise_to`. A grant says: my gate is closed, open yours; it answers
    `grant_seq`. 0 stands for nobody and nothing.
    """

    sender: int
    seq: int
    role: Role
    able: bool  # the gateway answers it
    epoch: int  # how many take-overs it knows of
    term: int  # which membership of the witness it believes in
    promise_to: int
    promise_seq: int
    grant_to: int
    grant_seq: int
    leans_on: int  # the one whose promises an active router needs; 0: nobody's, or everybody's
    heir: int = 0  # the one that an active router that is about to leave asks to make itself ready
    ready: bool = False  # it has done all for a take-over that takes time


class Arm(NamedTuple):
    """Start the kernel's timer for question `slot`, before the question is asked."""

    slot: int
    seconds: float


class Send(NamedTuple):
    """Send a message on all channels."""

    message: Message


class Probe(NamedTuple):
    """Ask the gateway who it is; an answer belongs to question `slot`."""

    slot: int


class Seek(NamedTuple):
    """Ask the wire who has the source addresses."""


class Approve(NamedTuple):
    """Keep the gate open for as long as the timer of `slot` runs."""

    slot: int


class Open(NamedTuple):
    """Become active: take the hardware address, approve `slot`, announce."""

    slot: int


class Close(NamedTuple):
    """Close the gate now, and give the hardware address up."""


class Prepare(NamedTuple):
    """Do what a take-over needs and what takes time, behind the closed gate: the right will come soon."""


class Ask(NamedTuple):
    """Ask the witness: read it (`members` is None), or replace it if it still has `version`."""

    token: int
    members: Members | None
    term: int
    version: str


class Answer(NamedTuple):
    """What the witness holds now, or `applied` what was asked; None for a field that is not known."""

    token: int
    applied: bool
    members: Members | None
    term: int
    version: str | None


Action = Arm | Send | Probe | Seek | Approve | Open | Close | Prepare | Ask
