"""Random schedules of reads, writes, half-closes and resets against a model; every byte and every record counts."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import time
from typing import TYPE_CHECKING

from tests.serving import LOOPS
from tests.unit.relay.makers import KnownMaker, Maker, SilentMaker, TunnelMaker
from tests.unit.relay.relay_thread import RelayThread
from tests.waiting import until

if TYPE_CHECKING:
    from tests.unit.relay.model import Model

FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS", "3"))  # `make fuzz` takes longer
AT_ONCE = 8
CUT_SHORT = {errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN}


def act(model: Model, dice: random.Random, relay_thread: RelayThread) -> bool:
    """Take some steps; return whether the connection is still to be used."""
    try:
        for _ in range(dice.randrange(1, 20)):
            model.step(dice, relay_thread)
        if dice.random() < 0.05:
            model.finish()
            return False
    except OSError as error:
        if error.errno in CUT_SHORT and model.allowed:
            return False
        raise AssertionError(str(model)) from error
    return not (model.client.gone and model.server.gone)


def test_random_schedules_are_relayed_to_the_byte() -> None:
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it with a failure
    with contextlib.closing(RelayThread(*LOOPS["own"]())) as relay_thread:
        makers = (
            TunnelMaker(relay_thread, dice),
            Maker(relay_thread),
            SilentMaker(relay_thread),
            KnownMaker(relay_thread),
        )
        models: list[tuple[Model, TunnelMaker | Maker]] = []
        end = time.monotonic() + FUZZ_SECONDS
        while time.monotonic() < end or models:
            while len(models) < AT_ONCE and time.monotonic() < end:
                maker = dice.choice(makers)
                models.append((maker.make(), maker))
            model, maker = one = dice.choice(models)
            going = time.monotonic() < end
            if act(model, dice, relay_thread) and going:
                continue
            models.remove(one)
            settle(model)
            until(lambda: maker.has_told(model))  # noqa: B023
            model.close()
            if model.closing is not None:
                model.check()
        for maker in makers:
            maker.end()
        assert relay_thread.plane.open_connections() == 0
        assert relay_thread.plane.pipes_lent == 0


def settle(model: Model) -> None:
    """Bring a connection to its end, whatever has become of it."""
    with contextlib.suppress(OSError):
        model.finish()
