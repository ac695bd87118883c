"""What `from` at the end of a line means for its targets: the source address of each attempt. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from egress_router.grammar.leaving import Spread

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from egress_router.grammar.address import IPAddress, Target
    from egress_router.grammar.leaving import Leaving


class Ways(NamedTuple):
    """Targets in the order in which they are tried, and the source address of each; no sources: any."""

    targets: tuple[Target, ...]
    sources: tuple[IPAddress, ...]


def ways(targets: Sequence[Target], leaving: Leaving, sources: Collection[IPAddress], turn: int = 0) -> Ways:
    """Return where to connect to, and with which of the router's addresses.

    A target of a family without a source of its own is left out. Spread over several sources, every target
    comes once with each of them, and all targets come with one before the next is used, which begins with the
    one in turn: so one that is not held, or has no free port left, costs nothing but its attempt. Where the
    families have different numbers of sources, the smaller one begins anew: all targets come equally often.
    """
    if leaving is None:
        return Ways(tuple(targets), ())
    wanted = sources if isinstance(leaving, Spread) else (leaving,)
    versions = {target[0].version for target in targets}
    by_version = {version: [each for each in wanted if each.version == version] for version in versions}
    rounds = max(map(len, by_version.values()), default=0)
    found = [
        (target, of_family[(turn + number) % len(of_family)])
        for number in range(rounds)
        for target in targets
        if (of_family := by_version[target[0].version])
    ]
    return Ways(tuple(target for target, _ in found), tuple(source for _, source in found))
