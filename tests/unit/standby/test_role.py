"""Every pair of roles: allowed or refused."""

from __future__ import annotations

import itertools

import pytest

from egress_router.standby.protocol.role import TRANSITIONS, Role, transition

ALLOWED = {
    (Role.LISTENING, Role.STANDBY),
    (Role.LISTENING, Role.LEAVING),
    (Role.STANDBY, Role.CLAIMING),
    (Role.STANDBY, Role.ACTIVE),
    (Role.STANDBY, Role.LEAVING),
    (Role.CLAIMING, Role.STANDBY),
    (Role.CLAIMING, Role.ACTIVE),
    (Role.CLAIMING, Role.LEAVING),
    (Role.ACTIVE, Role.STANDBY),
    (Role.ACTIVE, Role.LEAVING),
    (Role.LEAVING, Role.GONE),
}


@pytest.mark.parametrize(("old", "new"), list(itertools.product(Role, Role)))
def test_the_table_of_moves(old: Role, new: Role) -> None:
    if (old, new) in ALLOWED:
        assert transition(old, new) is new
    else:
        with pytest.raises(ValueError, match=f"{old.name} cannot become {new.name}"):
            transition(old, new)


def test_every_role_has_its_row() -> None:
    assert set(TRANSITIONS) == set(Role)
