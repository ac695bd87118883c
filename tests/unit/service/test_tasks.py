from __future__ import annotations

import asyncio
import io
import json
import logging
from typing import TYPE_CHECKING

import pytest

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.service.tasks import in_daemon_thread, run_until
from tests.shortages import refuse_thread

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def events() -> Iterator[io.StringIO]:
    root = logging.getLogger("egress_router")
    before = (root.handlers[:], root.level, root.propagate)
    stream = io.StringIO()
    log.configure(logging.StreamHandler(stream), "json", "info")
    yield stream
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])


def test_a_fault_of_a_callback_is_one_event_and_the_tasks_go_on(
    events: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    done = []

    def breaks() -> None:
        raise ZeroDivisionError("ours")

    async def main() -> None:
        ended = asyncio.Event()

        async def task() -> None:
            asyncio.get_running_loop().call_soon(breaks)
            while not events.getvalue():  # noqa: ASYNC110 (until the callback has had its turn)
                await asyncio.sleep(0)
            done.append(True)
            ended.set()
            await asyncio.Event().wait()

        await run_until(ended, [task()], lambda: asyncio.sleep(0))

    asyncio.run(main())
    event = json.loads(events.getvalue())
    assert (event["level"], event["component"], done) == ("error", "service", [True])
    assert "ZeroDivisionError: ours" in event["traceback"]
    assert capfd.readouterr().err == ""


def test_a_thread_that_does_not_start_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_thread(monkeypatch)

    async def main() -> int:
        with pytest.raises(RefusedError, match="cannot start a thread"):
            await in_daemon_thread(lambda: 1)
        return await in_daemon_thread(lambda: 2)

    assert asyncio.run(main()) == 2
