from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.serving import LOOPS
from tests.unit.relay.relay_thread import RelayThread

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=sorted(LOOPS))
def relay_thread(request: pytest.FixtureRequest) -> Iterator[RelayThread]:
    made = RelayThread(*LOOPS[request.param]())
    yield made
    made.close()
