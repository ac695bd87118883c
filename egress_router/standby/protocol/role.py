"""The roles of a router in its group, and how they may change. Pure."""

from __future__ import annotations

import enum
from typing import Final


class Role(enum.IntEnum):
    """The role of a router; the numbers are those on the wire."""

    LISTENING = 1  # just started: it finds out who else is there, and claims nothing
    STANDBY = 2  # another router is active, or may be
    CLAIMING = 3  # nobody seems to be active: it collects acknowledgements
    ACTIVE = 4  # it may send, until its lease runs out
    LEAVING = 5  # it is ending: it still acknowledges, but never sends again
    GONE = 6  # its last message says so


NEEDS_ACKS: Final = (Role.ACTIVE, Role.CLAIMING)  # roles that need acknowledgements of others
MAY_SUCCEED: Final = (Role.STANDBY, Role.CLAIMING)  # roles that a hand-over makes active
ENDING: Final = (Role.LEAVING, Role.GONE)

TRANSITIONS: Final[dict[Role, frozenset[Role]]] = {
    Role.LISTENING: frozenset({Role.STANDBY, Role.LEAVING}),
    Role.STANDBY: frozenset({Role.CLAIMING, Role.ACTIVE, Role.LEAVING}),
    Role.CLAIMING: frozenset({Role.STANDBY, Role.ACTIVE, Role.LEAVING}),
    Role.ACTIVE: frozenset({Role.STANDBY, Role.LEAVING}),
    Role.LEAVING: frozenset({Role.GONE}),
    Role.GONE: frozenset(),
}


def transition(old: Role, new: Role) -> Role:
    """Return `new` if the table allows the change.

    Raises:
        ValueError: it does not, which is a fault of ours.
    """
    if new not in TRANSITIONS[old]:
        raise ValueError(f"a router that is {old.name} cannot become {new.name}")
    return new
