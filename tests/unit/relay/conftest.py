from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.serving import LOOPS
from tests.unit.relay.room import Room

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=sorted(LOOPS))
def room(request: pytest.FixtureRequest) -> Iterator[Room]:
    made = Room(*LOOPS[request.param]())
    yield made
    made.close()
