"""What went through each line, where no thread can be started for a moment."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from egress_router.grammar.redirect import parse
from egress_router.metrics import Registry
from egress_router.redirect.line_counts import LineCounts
from egress_router.settings.policy import Guarded, GuardedSource
from egress_router.settings.variables import RulesSource
from tests.shortages import refuse_thread
from tests.waiting import until_async

if TYPE_CHECKING:
    import pytest

    from egress_router.grammar.redirect import Redirects
    from egress_router.redirect.enforced import EnforcedPolicy
    from egress_router.service.rule_store import RuleStore

TEXT = "80 tcp 203.0.113.25"


class Policy:
    """Counts how often it was asked to count."""

    def __init__(self) -> None:
        self.counts = 0

    async def count(self) -> None:
        self.counts += 1


def test_a_look_for_which_no_thread_starts_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    store = cast(
        "RuleStore[Guarded[Redirects]]", SimpleNamespace(rules=Guarded(parse("R", TEXT), None), text=TEXT)
    )
    source = GuardedSource(RulesSource("R", TEXT, None), None)
    policy, started = Policy(), refuse_thread(monkeypatch)

    async def main() -> None:
        counts = LineCounts(source, store, Registry(), dict, 0.0, has_counters=False)
        running = asyncio.create_task(counts.run(tuple, cast("EnforcedPolicy", policy)))
        await until_async(lambda: running.done() or policy.counts > 1)
        assert not running.done()
        running.cancel()

    asyncio.run(main())
    assert started[:2] == [False, True]
