"""Puts the plan in force with iptables, for kernels without nf_tables; one commit a table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.kernel.nat.iptables_rules import rules

if TYPE_CHECKING:
    from egress_router.kernel.nat.plan import NatPlan


_PROC_NET = Path("/proc/self/net")
_TIMEOUT = 120  # seconds; 0.7 ms a rule
_log = log.get("kernel")


def apply(plan: NatPlan, timeout: float = _TIMEOUT) -> None:
    """Put the plan in force, one commit a table.

    Raises:
        RefusedError: no permission, or the kernel lacks x_tables or one of its modules.
    """
    for version in (4, 6):
        tables = rules(plan, version)
        _, said = _libiptc(version, "apply", tables, timeout)
        if version == 6 and plan.family(6) is None and "can't initialize" in said:
            continue  # a kernel without ip6tables, on a router without IPv6
        if said:
            raise _refusal(said)
        chains = (
            (chain, rule) for each in tables.values() for chain, wanted in each.items() for rule in wanted
        )
        for chain, rule in chains:
            _log.debug("iptables", version=version, chain=chain, rule=rule)


def remove(proc_net: Path = _PROC_NET, python: str = sys.executable) -> list[str]:
    """Remove our chains where they exist, and return from which families.

    A table that this namespace never used is left alone: the first read would create it. Other programs may
    have tables although python-iptables is not installed, so a failure is only logged.
    """
    removed = []
    for version, names in (4, "ip_tables_names"), (6, "ip6_tables_names"):
        try:
            used = (proc_net / names).read_text(encoding="ascii").split()
        except OSError:
            continue  # a kernel without x_tables
        known = [table for table in ("filter", "mangle", "nat") if table in used]
        chains, said = _libiptc(version, "remove", known, python=python) if known else ("", "")
        if said:
            _log.warning(
                "iptables rules of an earlier run may still be in force", version=version, error=said
            )
        if chains:
            removed.append(f"iptables, IPv{version}")
    return removed


def _libiptc(
    version: int, action: str, what: object, timeout: float = _TIMEOUT, python: str = sys.executable
) -> tuple[str, str]:
    """Run python-iptables for one family; return what it printed, and its errors.

    Each family gets a process of its own: libxtables keeps the first family's NAT target for the life of the
    process, and makes empty rules for the other family.
    """
    try:
        done = subprocess.run(  # noqa: S603 (this very program)
            [python, "-m", "egress_router.kernel.nat.libiptc", str(version), action],
            input=json.dumps(what),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RefusedError(
            f"iptables rules were not set within {timeout} s", "look at the node's load"
        ) from None
    if done.returncode == 0:
        return done.stdout.strip(), ""
    return "", done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}"


def _refusal(said: str) -> RefusedError:
    if "ermission" in said or "not permitted" in said:
        return RefusedError("the kernel refused NAT rules (operation not permitted)", "grant NET_ADMIN")
    remedy = "load ip_tables, iptable_nat and nf_conntrack on the node, or set EGRESS_NAT_BACKEND=nftables"
    return RefusedError(f"the kernel refused iptables rules ({said})", remedy)
