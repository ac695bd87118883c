"""What `from` at the end of a line means: which source address each attempt has. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from egress_router.grammar.leaving import Spread

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from egress_router.grammar.address import IPAddress, Target
    from egress_router.grammar.leaving import Leaving


class Ways(NamedTuple):
    """Targets in the order of attempts, and the source address of each; no sources: the kernel chooses."""

    targets: tuple[Target, ...]
    sources: tuple[IPAddress, ...]


def ways(targets: Sequence[Target], leaving: Leaving, sources: Collection[IPAddress], turn: int = 0) -> Ways:
    """Return where to connect to, and with which of the router's addresses.

    A target is left out if no source is of its family. With several sources, every target comes once with
    each of them: first all targets with the source in turn, then all with the next one. So a source that is
    not held, or has no free port left, costs only its attempt. If the families have different numbers of
    sources, those of the smaller family begin again, so that all targets come equally often.
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
