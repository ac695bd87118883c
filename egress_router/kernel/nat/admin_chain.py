"""The administrator's own chain: made where it is missing, and not touched after that.

It is in a table of its own, so that nothing that becomes of ours changes it. Every packet that leaves by the
egress interface passes it after our own rules, forwarded or from the pod itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.kernel.nat.source_ports import chain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TABLE = "egress_router_admin"
NAME = "OPENSHIFT-ADMIN-OUTPUT-RULES"
# Behind our own chains in the same hooks.
_HOOKS = ("forward", "output")
_PRIORITY = "filter + 10"
_COUNTER = re.compile(r"\bcounter packets (\d+) bytes (\d+)")
# What would end a statement in nft; a quoted text may hold any of them.
_QUOTED = re.compile(r'"[^"]*"')
_ENDS_STATEMENT = re.compile(r"[;\\]")


@dataclass(frozen=True, slots=True)
class AdminRule:
    """One rule of the administrator's, with what it counted; None where it has no counter."""

    text: str
    packets: int | None
    size: int | None


def declaration(interface: str) -> Iterator[str]:
    """Yield the commands that make the chain where it is missing, and packets pass it in any case."""
    yield f"add table inet {TABLE}"
    yield f"add chain inet {TABLE} {NAME}"
    for hook in _HOOKS:
        kind = f"type filter hook {hook} priority {_PRIORITY}; policy accept;"
        yield f"add chain inet {TABLE} {hook} {{ {kind} }}"
        yield f"flush chain inet {TABLE} {hook}"
    yield f"table inet {TABLE} {{"
    for hook in _HOOKS:
        yield from (f"  {line}" for line in chain(hook, f'oifname "{interface}" jump {NAME}'))
    yield "}"


def filling(interface: str, statements: Sequence[str]) -> str:
    """Return the transaction that makes these statements, one a rule, the whole of the chain."""
    rules = (f"add rule inet {TABLE} {NAME} {statement}" for statement in statements)
    return "\n".join([*declaration(interface), f"flush chain inet {TABLE} {NAME}", *rules, ""])


def fault(statement: str) -> str | None:
    """Say why a line cannot be one statement of a rule, before nft is asked; None where it can."""
    if _ENDS_STATEMENT.search(_QUOTED.sub("", statement)):
        return "one nft statement a line, without ';' or '\\'"
    if statement.split(maxsplit=1)[0] in {"jump", "goto"}:
        return "a rule cannot leave this chain by jump or goto"
    return None


def faults(stderr: str, filled: str, statements: Sequence[str]) -> list[tuple[int, str]]:
    """Return which statements nft refuses, by index, and why, out of what it said of `filling`'s text."""
    first = filled.splitlines().index(f"flush chain inet {TABLE} {NAME}") + 2
    found: dict[int, str] = {}
    for number, message in re.findall(r"^\S*?:(\d+):[\d-]+: Error: (.*)$", stderr, re.MULTILINE):
        index = int(number) - first
        if 0 <= index < len(statements):
            found.setdefault(index, message)
    return sorted(found.items())


def parsed(listed: str) -> tuple[AdminRule, ...]:
    """Read what `nft list chain` prints of it."""
    found = []
    for line in listed.splitlines():
        text = line.strip()
        if not line.startswith("\t\t") or text.startswith("type "):
            continue
        counter = _COUNTER.search(text)
        packets, size = map(int, counter.groups()) if counter else (None, None)
        found.append(AdminRule(_COUNTER.sub("counter", text), packets, size))
    return tuple(found)
