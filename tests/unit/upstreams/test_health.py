"""Checks of real addresses on loopback, on every event loop."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.upstreams.health import INTERVAL, Checks, answers
from tests.ports import free_port
from tests.serving import LOOPS
from tests.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.address import Target

LOCAL = ip_address("127.0.0.1")


@pytest.fixture(params=sorted(LOOPS))
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=lambda: LOOPS[request.param]()[0]) as made:
        yield made


def test_a_check_that_took_its_whole_time_is_followed_by_the_next_at_once() -> None:
    """Two seconds from the beginning of one check to the next: a silent target is down after three checks."""
    loop = asyncio.new_event_loop()
    checks = Checks(loop, lambda _: None)
    loop.close()
    assert checks.pause(INTERVAL) <= INTERVAL / 10
    assert INTERVAL / 2 < checks.pause(0.0) <= INTERVAL * 1.1


def test_thousands_of_targets_are_checked_less_often() -> None:
    loop = asyncio.new_event_loop()
    checks = Checks(loop, lambda _: None)
    checks.watch((LOCAL, port) for port in range(1, 1001))
    assert checks.interval == INTERVAL
    checks.watch((LOCAL, port) for port in range(1, 5001))
    assert checks.interval == 10.0
    checks.stop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_check_ends_with_a_reset(runner: asyncio.Runner, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, free_port()), family=family) as server:
        target = (ip_address(address), server.getsockname()[1])
        assert runner.run(answers(target, WAIT_SECONDS)) is True
        accepted, _ = server.accept()
        with accepted, pytest.raises(ConnectionResetError):
            accepted.recv(1)
    assert runner.run(answers(target, WAIT_SECONDS)) is False


def test_a_target_that_never_answers_fails_in_time(runner: asyncio.Runner) -> None:
    # One connection fills the queue, and the kernel drops the first packets of others.
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as server,
        socket.create_connection(server.getsockname()),
    ):
        assert runner.run(answers((LOCAL, server.getsockname()[1]), 0.05)) is False


def test_a_target_goes_down_and_comes_back(runner: asyncio.Runner) -> None:
    async def play() -> None:
        changes: asyncio.Queue[tuple[Target, bool]] = asyncio.Queue()
        checks = Checks(
            asyncio.get_running_loop(),
            lambda target: changes.put_nowait((target, checks.is_up(target))),
            interval=0.02,
        )
        with socket.create_server(("127.0.0.1", free_port())) as server:
            target = (LOCAL, server.getsockname()[1])
            checks.watch([target, target])
            assert len(checks) == 1
            accepted, _ = await asyncio.get_running_loop().run_in_executor(None, server.accept)
            accepted.close()
        async with asyncio.timeout(WAIT_SECONDS):
            assert await changes.get() == (target, False)
            with socket.create_server(("127.0.0.1", target[1])):
                assert await changes.get() == (target, True)
        checks.stop()
        assert checks.is_up(target)

    runner.run(play())
