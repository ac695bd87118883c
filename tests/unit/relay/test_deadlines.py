from __future__ import annotations

import asyncio
import gc
import time
import weakref
from typing import TYPE_CHECKING

import pytest

from egress_router.relay.deadlines import Deadline, Deadlines
from tests.serving import LOOPS
from tests.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def run(loop: str, test: Callable[[Deadlines], Awaitable[None]], tick: float = 0.08) -> None:
    async def body() -> None:
        deadlines = Deadlines(asyncio.get_running_loop(), tick)
        try:
            await test(deadlines)
        finally:
            deadlines.close()

    with asyncio.Runner(loop_factory=lambda: LOOPS[loop]()[0]) as runner:
        runner.run(asyncio.wait_for(body(), WAIT_SECONDS))


both_loops = pytest.mark.parametrize("loop", sorted(LOOPS))


@both_loops
@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.05, 0.85])
def test_it_fires_once_and_never_early(loop: str, seconds: float) -> None:
    async def body(deadlines: Deadlines) -> None:
        calls: list[float] = []
        fired = asyncio.Event()

        def fire() -> None:
            calls.append(time.monotonic())
            fired.set()

        begun = time.monotonic()
        deadlines.add(seconds, fire)
        await fired.wait()
        assert calls[0] - begun >= seconds
        later = asyncio.Event()
        deadlines.add(0.1, later.set)
        await later.wait()
        assert len(calls) == 1

    run(loop, body)


@both_loops
def test_the_order_is_that_of_the_due_times(loop: str) -> None:
    async def body(deadlines: Deadlines) -> None:
        order: list[int] = []
        done = asyncio.Event()
        deadlines.add(0.3, done.set)
        for milliseconds in (200, 20, 110):
            deadlines.add(milliseconds / 1000, lambda which=milliseconds: order.append(which))  # type: ignore[misc]
        await done.wait()
        assert order == [20, 110, 200]

    run(loop, body)


@both_loops
def test_a_touch_lets_the_full_time_begin_anew(loop: str) -> None:
    async def body(deadlines: Deadlines) -> None:
        fired = asyncio.Event()
        touched = deadlines.add(0.5, fired.set)
        touches: list[float] = []

        def step() -> None:
            # Due before the other one, so it is called before it, however late both are.
            assert not fired.is_set()
            touched.touch()
            touches.append(time.monotonic())
            if len(touches) < 6:
                deadlines.add(0.1, step)

        deadlines.add(0.1, step)
        await fired.wait()
        assert len(touches) == 6
        assert time.monotonic() - touches[-1] >= 0.5

    run(loop, body)


@both_loops
def test_a_cancelled_one_never_fires_and_lets_its_owner_go(loop: str) -> None:
    class Owner:
        def fire(self) -> None:
            raise AssertionError("was cancelled")

    async def body(deadlines: Deadlines) -> None:
        owner = Owner()
        gone = weakref.ref(owner)
        deadline = deadlines.add(0.05, owner.fire)
        del owner
        deadline.cancel()
        deadline.cancel()
        assert gone() is None
        later = asyncio.Event()
        deadlines.add(0.2, later.set)
        await later.wait()

    run(loop, body)


@both_loops
def test_one_that_cancels_another_of_the_same_moment(loop: str) -> None:
    async def body(deadlines: Deadlines) -> None:
        done = asyncio.Event()
        calls: list[int] = []
        pair: list[Deadline] = []

        def fire(which: int) -> None:
            calls.append(which)
            pair[1 - which].cancel()

        pair.append(deadlines.add(0.05, lambda: fire(0)))
        pair.append(deadlines.add(0.05, lambda: fire(1)))
        deadlines.add(0.2, done.set)
        await done.wait()
        assert len(calls) == 1

    run(loop, body)


@both_loops
def test_a_callback_that_raises_does_not_stop_the_others(loop: str) -> None:
    async def body(deadlines: Deadlines) -> None:
        reported: list[object] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reported.append(context["exception"])
        )
        error = RuntimeError("a fault in a callback")

        def fail() -> None:
            raise error

        done = asyncio.Event()
        deadlines.add(0.05, fail)
        deadlines.add(0.05, fail)
        deadlines.add(0.1, done.set)
        await done.wait()
        assert reported == [error, error]

    run(loop, body)


def test_time_outs_that_were_cancelled_leave_nothing_behind() -> None:
    async def body(deadlines: Deadlines) -> None:
        made = [deadlines.add(3600, lambda: None) for _ in range(100)]
        assert known() == 100
        for deadline in made:
            deadline.cancel()
        del made, deadline
        assert known() == 0

    def known() -> int:
        gc.collect()
        return sum(isinstance(each, Deadline) for each in gc.get_objects())

    run("standard", body)
