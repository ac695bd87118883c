from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from egress_router.upstreams.health import INTERVAL, Checks
from tests.serving import LOOPS
from tests.unit.relay.room import Room

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def running_room() -> Iterator[Room]:
    made = Room(*LOOPS["own"]())
    try:
        yield made
    finally:
        made.end()


def test_a_check_that_took_its_whole_time_is_followed_by_the_next_at_once() -> None:
    """Every two seconds means from beginning to beginning: a silent target is down after three of them."""
    with running_room() as room:
        checks = Checks(room.poller, room.deadlines, lambda _: None)
        began = time.monotonic()
        after_silence = room.call(lambda: checks.later(lambda: None, since=began - INTERVAL))
        after_answer = room.call(lambda: checks.later(lambda: None, since=began))
        assert after_silence.seconds <= INTERVAL / 10
        assert INTERVAL / 2 < after_answer.seconds <= INTERVAL * 1.1
        for each in (after_silence, after_answer):
            room.call(each.cancel)
