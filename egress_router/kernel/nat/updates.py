"""The change from one plan to another of the same layout: elements of maps, in one transaction."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from egress_router.kernel.nat import elements
from egress_router.kernel.nat.phrases import whole_chain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.kernel.nat.plan import NatPlan, PlannedLine

_OTHER = "plans differ in more than the addresses of lines"


def update(before: NatPlan, after: NatPlan) -> tuple[str, NatPlan]:
    """Return the transaction that changes the addresses of lines, and the plan that is in force after it.

    The text is empty if nothing changes. Connections that conntrack knows are not touched.

    Raises:
        ValueError: something other than addresses differs.
    """
    text: list[str] = []
    families = []
    if replace(before, families=()) != replace(after, families=()):
        raise ValueError(_OTHER)
    for old, new in zip(before.families, after.families, strict=True):
        if replace(old, lines=()) != replace(new, lines=()) or len(old.lines) != len(new.lines):
            raise ValueError(_OTHER)
        pairs = list(map(_settled, old.lines, new.lines))
        families.append(replace(new, lines=tuple(line for _, line in pairs)))
        text += _changes(old.version, [pair for pair in pairs if pair[0] is not pair[1]])
    return "\n".join([*text, ""]) if text else "", replace(after, families=tuple(families))


def _settled(line: PlannedLine, wanted: PlannedLine) -> tuple[PlannedLine, PlannedLine]:
    """Return the line as it is and as it will be; the same object twice if nothing changes."""
    if _place(line) != _place(wanted):
        raise ValueError(_OTHER)
    if line.addresses == wanted.addresses:  # usually the same objects, so this is fast
        return line, line
    addresses = elements.settled(line.addresses, wanted.addresses)
    if addresses == line.addresses:
        return line, line
    return line, replace(wanted, addresses=addresses)


def _place(line: PlannedLine) -> tuple[object, ...]:
    """Return everything of a line except its addresses."""
    return line.protocol, line.first, line.last, line.target_port, line.leaving


def _changes(version: int, pairs: Sequence[tuple[PlannedLine, PlannedLine]]) -> list[str]:
    gone, come = elements.changes(version, pairs)
    wanted = elements.verdicts(version, come)
    return [
        *(command for lines in elements.group_chains(version, wanted) for command in whole_chain(lines)),
        *elements.removed(gone),
        *elements.added(come),
    ]
