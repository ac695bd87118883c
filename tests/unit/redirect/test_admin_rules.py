from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router.errors import ConfigError, Problem, RefusedError
from egress_router.kernel.nat.admin_rules import FileRules
from egress_router.redirect.admin_rules import AdminRules
from tests.waiting import until_async

if TYPE_CHECKING:
    from egress_router.files import Signature


class Kernel:
    """Refuses as often as it is told to; `asked` is what should be put in force, one time after the other."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.asked: list[FileRules] = []

    def put(self, rules: FileRules) -> bool:
        self.asked.append(rules)
        if len(self.asked) <= self.refusals:
            raise RefusedError("no memory", "look at the node's load")
        return True


def said(*statements: str) -> FileRules:
    return FileRules(statements, "macvlan0")


def test_what_the_kernel_refused_is_tried_again_until_it_is_in_force(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.touch()
    kernel = Kernel(refusals=2)
    rules = AdminRules(path, lambda: said("drop"), kernel.put, retry_seconds=0.001)

    async def scene() -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in rules.tasks()]
            await until_async(lambda: len(kernel.asked) == 3 and rules.error is None)
            for each in tasks:
                each.cancel()

    asyncio.run(scene())
    assert set(kernel.asked) == {said("drop")}


def test_what_was_refused_is_not_tried_again_while_the_file_is_being_written() -> None:
    kernel, sizes, writing = Kernel(refusals=1_000_000), itertools.count(), False

    def look(_: Path) -> Signature:
        return (1, 1, 1, 1, next(sizes) if writing else 0)

    rules = AdminRules(Path("rules"), lambda: said("drop"), kernel.put, retry_seconds=0.0, look=look)

    async def scene() -> None:
        nonlocal writing
        tasks = [asyncio.create_task(each) for each in rules.tasks()]
        await until_async(lambda: len(kernel.asked) > 2)
        writing = True
        await until_async(lambda: next(sizes) > 50)
        before = len(kernel.asked)
        await until_async(lambda: next(sizes) > 100)
        assert len(kernel.asked) == before
        for each in tasks:
            each.cancel()

    asyncio.run(scene())


def test_a_wrong_file_is_not_tried_again_before_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.write_text("wrong")
    read: list[str] = []

    def parse() -> FileRules:
        read.append(path.read_text())
        if read[-1] == "wrong":
            raise ConfigError([Problem("F", 1, "wrong", "no statement")])
        return said(read[-1])

    kernel = Kernel(refusals=0)
    rules = AdminRules(path, parse, kernel.put, retry_seconds=0.001)

    async def scene() -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in rules.tasks()]
            await until_async(lambda: rules.error is not None)
            path.write_text("right")
            await until_async(lambda: kernel.asked)
            for each in tasks:
                each.cancel()

    asyncio.run(scene())
    assert read == ["wrong", "right"], "at the first look, and when it changed"
    assert kernel.asked == [said("right")]
