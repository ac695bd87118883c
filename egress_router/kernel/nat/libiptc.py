"""One family's rules set by python-iptables: `python -m egress_router.kernel.nat.libiptc 4|6 apply|remove`.

Reads JSON from standard input: the rules by table and chain, or the names of the tables to clear. It runs as
a separate process; `iptables` says why.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Protocol

import iptc
from iptc.ip4tc import IPTCError

from egress_router.kernel.nat import admin_chain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.kernel.nat.iptables_rules import Rule, Tables

# Our chains, and the built-in chain of the same table that jumps to each.
_HOOKS = {
    "EGRESS_REMEMBER": "PREROUTING",
    "EGRESS_RETURN": "OUTPUT",
    "EGRESS_LEAKS": "POSTROUTING",
    "EGRESS_TO": "PREROUTING",
    "EGRESS_FROM": "POSTROUTING",
    "EGRESS_INPUT": "INPUT",
    "EGRESS_FORWARD": "FORWARD",
    "EGRESS_OUTPUT": "OUTPUT",
}


class _Chain(Protocol):
    """The part of python-iptables' Chain that is used; the library has no types."""

    def flush(self) -> None:
        """Remove every rule."""

    def append_rule(self, rule: object) -> None:
        """Add a rule."""


class _Table(Protocol):
    """The part of its Table that is used."""

    def is_chain(self, chain: _Chain) -> bool:
        """Say whether the table has the chain."""

    def create_chain(self, chain: _Chain) -> _Chain:
        """Make the chain."""


def put_in_force(tables: Tables, *, ipv6: bool) -> None:
    """Replace our chains; each table in one commit.

    The filter comes first, so that between two commits nothing passes that the plan would stop.
    """
    for name in ("filter", "mangle", "nat"):
        table = (iptc.Table6 if ipv6 else iptc.Table)(name)
        # Never closed: python-iptables looks targets up in every table it has opened.
        table.autocommit = False
        table.refresh()
        if name == "filter" and not table.is_chain(iptc.Chain(table, admin_chain.NAME)):
            # The administrator's: created once, and never changed or removed.
            table.create_chain(iptc.Chain(table, admin_chain.NAME))
        for chain, wanted in tables[name].items():
            _fill(table, chain, wanted, ipv6=ipv6)
        table.commit()


def _fill(table: _Table, name: str, wanted: list[Rule], *, ipv6: bool) -> None:
    chain: _Chain = iptc.Chain(table, name)
    if table.is_chain(chain):
        chain.flush()
    else:
        chain = table.create_chain(chain)
    for rule in wanted:
        chain.append_rule(iptc.easy.encode_iptc_rule(rule, ipv6=ipv6))
    hook = iptc.Chain(table, _HOOKS[name])
    if not any(rule.target is not None and rule.target.name == name for rule in hook.rules):
        hook.insert_rule(iptc.easy.encode_iptc_rule({"target": name}, ipv6=ipv6))


def remove(tables: Sequence[str], *, ipv6: bool) -> list[str]:
    """Remove our chains and the jumps to them from these tables; return their names."""
    removed = []
    for name in tables:
        table = (iptc.Table6 if ipv6 else iptc.Table)(name)
        table.autocommit = False
        table.refresh()
        ours = [chain for chain in table.chains if chain.name in _HOOKS]
        for chain in ours:
            hook = iptc.Chain(table, _HOOKS[chain.name])
            for rule in [each for each in hook.rules if each.target and each.target.name == chain.name]:
                hook.delete_rule(rule)
            chain.flush()
            table.delete_chain(chain.name)
        if ours:
            table.commit()
            removed += [chain.name for chain in ours]
    return removed


def main() -> int:
    """Do what standard input says; one line on stderr and exit status 1 if the kernel refuses."""
    what, ipv6 = json.load(sys.stdin), sys.argv[1] == "6"
    try:
        if sys.argv[2] == "apply":
            put_in_force(what, ipv6=ipv6)
        else:
            sys.stdout.write(" ".join(remove(what, ipv6=ipv6)))
    except (IPTCError, ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
