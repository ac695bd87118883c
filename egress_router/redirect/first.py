"""What the names of lines resolve to before they are followed: rules must not start without addresses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from egress_router.metrics import Registry
from egress_router.names.answer import ResolveError
from egress_router.names.resolver import Resolver
from egress_router.redirect.lines import Resolved, in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.grammar.redirect import NamedRedirect
    from egress_router.settings.names import NamesSettings

_SECONDS = 2.0  # silent name servers must not keep a router from starting


def first_answers(
    settings: NamesSettings, names: Collection[str], seconds: float = _SECONDS
) -> dict[str, tuple[IPAddress, ...]]:
    """Return what names resolve to within `seconds`; afterwards `LineNames` resolves them."""
    return asyncio.run(_asked(settings, set(names), seconds)) if names else {}


def first_addresses(
    answers: Mapping[str, tuple[IPAddress, ...]],
    lines: Sequence[NamedRedirect],
    unusable: Callable[[NamedRedirect, IPAddress], str | None],
) -> Resolved:
    """Return where lines lead if their names have these addresses."""
    return {
        line: in_order(each for each in answers.get(line.name, ()) if unusable(line, each) is None)
        for line in lines
    }


async def _asked(
    settings: NamesSettings, names: set[str], seconds: float
) -> dict[str, tuple[IPAddress, ...]]:
    resolver = Resolver(settings, Registry())
    found: dict[str, tuple[IPAddress, ...]] = {}

    async def ask(name: str) -> None:
        try:
            found[name] = (await resolver.resolve(name)).addresses
        except ResolveError:
            return  # `LineNames` reports it

    tasks = [asyncio.create_task(ask(name)) for name in names]
    await asyncio.wait(tasks, timeout=seconds)
    resolver.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return found
