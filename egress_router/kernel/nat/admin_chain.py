"""The administrator's own chain, which we never change, and beside it one for the rules of a file.

Both are in a table of their own, so that no transaction for our rules changes them. Every packet that leaves
by the egress interface, forwarded or from the pod itself, passes them after our own rules: first the rules
that the administrator added by hand, then the file's, so that an `accept` by hand is an exception from the
file.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from egress_router.kernel.nat.source_ports import chain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TABLE = "egress_router_admin"
NAME = "OPENSHIFT-ADMIN-OUTPUT-RULES"
FILE_CHAIN = "EGRESS-ADMIN-RULES-FILE"
# After our own chains in the same hooks.
_HOOKS = ("forward", "output")
_PRIORITY = "filter + 10"
_COUNTER = re.compile(r"\bcounter packets (\d+) bytes (\d+)")
_HANDLE = re.compile(r" # handle (\d+)$")
# This set is never filled; its name is a hash of the statements in the file's chain.
_MARKER = re.compile(r"(?m)^\tset (file_[0-9a-f]{16}) \{")
# What would end a statement in nft; inside quotation marks it does not.
_QUOTED = re.compile(r'"[^"]*"')
_ENDS_STATEMENT = re.compile(r"[;\\]")


class Origin(Enum):
    """Where a rule comes from: the administrator's chain, or a line of the file."""

    CHAIN = "chain"
    FILE = "file"


_CHAINS = {Origin.CHAIN: NAME, Origin.FILE: FILE_CHAIN}


@dataclass(frozen=True, slots=True)
class AdminRule:
    """One rule of the administrator, with what it counted; None if it has no counter."""

    text: str
    packets: int | None
    size: int | None
    origin: Origin


def declaration(interface: str) -> Iterator[str]:
    """Yield the commands that create the chains if they are missing, and make packets pass them."""
    yield f"add table inet {TABLE}"
    for name in _CHAINS.values():
        yield f"add chain inet {TABLE} {name}"
    for hook in _HOOKS:
        kind = f"type filter hook {hook} priority {_PRIORITY}; policy accept;"
        yield f"add chain inet {TABLE} {hook} {{ {kind} }}"
        yield f"flush chain inet {TABLE} {hook}"
    # Checked once, because packets of both directions pass, and comparing a name is the slowest check.
    rules = [f'oifname != "{interface}" accept', *(f"jump {name}" for name in _CHAINS.values())]
    yield f"table inet {TABLE} {{"
    for hook in _HOOKS:
        yield from (f"  {line}" for line in chain(hook, *rules))
    yield "}"


def filling(interface: str, statements: Sequence[str], listed: str = "") -> str:
    """Return the transaction that makes the file's chain consist of these statements, one a rule.

    `listed` is nft's listing of the current table.
    """
    marks = [f"delete set inet {TABLE} {name}" for name in _MARKER.findall(listed)]
    if statements:
        marks.append(f"add set inet {TABLE} {_marker(statements)} {{ type mark; }}")
    rules = (f"add rule inet {TABLE} {FILE_CHAIN} {statement}" for statement in statements)
    return "\n".join([*declaration(interface), *marks, _FLUSH, *rules, ""])


_FLUSH = f"flush chain inet {TABLE} {FILE_CHAIN}"


def is_filled(listed: str, statements: Sequence[str]) -> bool:
    """Say whether the file's chain already holds these statements and no others."""
    wanted = [_marker(statements)] if statements else []
    return _MARKER.findall(listed) == wanted and len(list(_rules(listed, FILE_CHAIN))) == len(statements)


def _marker(statements: Sequence[str]) -> str:
    return f"file_{hashlib.sha256(chr(10).join(statements).encode()).hexdigest()[:16]}"


def is_old(listed: str) -> bool:
    """Say whether the table is of a version that put the file's rules into the administrator's chain."""
    return f"\tchain {NAME} {{" in listed and f"\tchain {FILE_CHAIN} {{" not in listed


def takeover(listed: str) -> str:
    """Return the transaction that removes the file's rules from the administrator's chain; it may be empty.

    `listed` is the table with handles and without the values of counters. Only the whole file, without gaps,
    is taken for what an earlier version put there; the administrator may have added everything else.
    """
    old = [_HANDLE.split(rule) for rule in _rules(listed, NAME)]
    file = [_HANDLE.split(rule)[0] for rule in _rules(listed, FILE_CHAIN)]
    for first in range(len(old) - len(file) + 1):
        found = old[first : first + len(file)]
        if [text for text, *_ in found] == file:
            return "".join(f"delete rule inet {TABLE} {NAME} handle {handle}\n" for _, handle, _ in found)
    return ""


def fault(statement: str) -> str | None:
    """Say why a line cannot be one statement of a rule, before nft is asked; None if it can."""
    if _ENDS_STATEMENT.search(_QUOTED.sub("", statement)):
        return "one nft statement a line, without ';' or '\\'"
    if statement.split(maxsplit=1)[0] in {"jump", "goto"}:
        return "a rule cannot leave this chain by jump or goto"
    return None


def faults(stderr: str, filled: str, statements: Sequence[str]) -> list[tuple[int, str]]:
    """Return the index of each statement that nft refuses, and why, from its errors about `filled`."""
    first = filled.splitlines().index(_FLUSH) + 2
    found: dict[int, str] = {}
    for number, message in re.findall(r"^\S*?:(\d+):[\d-]+: Error: (.*)$", stderr, re.MULTILINE):
        index = int(number) - first
        if 0 <= index < len(statements):
            found.setdefault(index, message)
    return sorted(found.items())


def parsed(listed: str) -> tuple[AdminRule, ...]:
    """Read the rules from nft's listing of the table, in the order in which packets pass them."""
    return tuple(_parsed(text, origin) for origin, name in _CHAINS.items() for text in _rules(listed, name))


def _parsed(text: str, origin: Origin) -> AdminRule:
    counter = _COUNTER.search(text)
    packets, size = map(int, counter.groups()) if counter else (None, None)
    return AdminRule(_COUNTER.sub("counter", text), packets, size, origin)


def _rules(listed: str, name: str) -> Iterator[str]:
    """Yield the rules of one chain in a listing of the table."""
    is_here = False
    for line in listed.splitlines():
        if not line.startswith("\t\t"):
            is_here = line.startswith(f"\tchain {name} {{")
        elif is_here:
            yield line.strip()
