from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from egress_router.errors import ConfigError, Problem, RefusedError
from egress_router.metrics import Registry
from egress_router.service.rule_store import RuleStore
from egress_router.settings.variables import RulesSource

if TYPE_CHECKING:
    from pathlib import Path


async def _accept(_: str, __: frozenset[int]) -> None:
    """Put rules in force."""


def test_what_may_pass_is_tried_again_and_told_when_the_reason_changes(tmp_path: Path) -> None:
    path, registry = tmp_path / "rules", Registry()
    path.write_text("80 one\n")
    rule_store = RuleStore(Reader(), RulesSource("RULES", "", path), registry)
    attempts: list[str] = []

    async def refuse(text: str, _: frozenset[int]) -> None:
        attempts.append(text)
        raise RefusedError("cannot listen", "port taken" if len(attempts) < 4 else "too many open files")

    def refusals() -> float:
        return registry.snapshot()["reload_errors_total"].numbers[()]

    asyncio.run(rule_store.retry(refuse))
    assert not attempts, "nothing was refused"
    path.write_text("81 two\n")
    asyncio.run(rule_store.reload(refuse))
    for _ in range(4):
        asyncio.run(rule_store.retry(refuse))
    assert attempts == ["81 two\n"] * 5
    assert refusals() == 2, "one for each reason"
    path.unlink()
    asyncio.run(rule_store.retry(refuse))
    path.write_text("wrong")
    asyncio.run(rule_store.retry(refuse))
    assert (len(attempts), refusals()) == (5, 4)
    asyncio.run(rule_store.retry(refuse))
    assert len(attempts) == 5, "wrong rules are not tried again"
    path.write_text("81 two\n")
    asyncio.run(rule_store.reload(_accept))
    assert (rule_store.rules, rule_store.errors) == ("81 two\n", ())


class Reader:
    """Rules that are their text."""

    @staticmethod
    def parse(source: str, text: str) -> str:
        if text == "wrong":
            raise ConfigError([Problem(source, 1, text, "is wrong")])
        return text

    @staticmethod
    def ports(_: str) -> frozenset[int]:
        return frozenset()

    @staticmethod
    def summary(rules: str) -> tuple[str, ...]:
        return (rules,)
