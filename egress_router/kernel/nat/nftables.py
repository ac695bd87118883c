"""Puts the plan in force, with transactions of the `nft` program."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.kernel import conntrack
from egress_router.kernel.nat import counting, nft, rules, source_ports, updates
from egress_router.kernel.nat.source_ports import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.kernel.nat.plan import NatPlan

_log = log.get("kernel")
# Connection timeouts and hashes are separate parts of the kernel, which may be missing.
_TIMEOUTS = (
    "table inet egress_router_probe { ct timeout t { protocol tcp; policy = { time_wait : 60 }; }; }\n"
)
_HASHES = "table inet egress_router_probe { chain c { meta mark set jhash ip6 saddr mod 2 seed 0x1; }; }\n"


# What this process put in force last, so that only differences have to be sent to the kernel.
_in_force: dict[str, NatPlan] = {}


def apply(plan: NatPlan) -> None:
    """Put the plan in force, all of it or nothing.

    If only addresses of lines have changed since the last time, one transaction updates the elements: new
    connections meet either the old addresses or the new ones, and as many of a line's addresses as possible
    keep their places. Counters and the state of source ports are kept also if lines have changed.

    Raises:
        RefusedError: there is no `nft`, no permission, or no nf_tables in this kernel.
    """
    # If the kernel refuses, somebody else may have changed the table: then the next call sends everything.
    before = _in_force.pop(TABLE, None)
    settled = None if before is None else _updated(before, plan)
    if settled is None:
        settled = plan
        _execute_and_say(rules.render_again(plan) if _is_there(plan) else _render(plan))
    _in_force[TABLE] = settled


def _updated(before: NatPlan, plan: NatPlan) -> NatPlan | None:
    """Change the addresses of lines; return the plan that is in force then, None if that was not enough."""
    try:
        text, settled = updates.update(before, plan)
    except ValueError:
        return None
    if not text:
        return settled if _is_there(plan) else None
    try:
        _execute_and_say(text)
    except RefusedError as error:
        _log.warning("a change of addresses was refused; all rules are set anew", error=str(error))
        return None
    return settled


def _is_there(plan: NatPlan) -> bool:
    """Say whether there is a table with this plan's layout."""
    return nft.run("list", "set", "inet", TABLE, rules.layout(plan)).returncode == 0


def _execute_and_say(text: str) -> None:
    execute(text)
    if _log.tells_debug:
        for line in _log_lines(text):
            _log.debug("nftables", line=line)


def _render(plan: NatPlan) -> str:
    """Return the text for a namespace that has no table with this plan's layout yet."""
    if not plan.redirects:
        return rules.render(plan)
    has_timeouts, has_hashes = _accepts(_TIMEOUTS), _accepts(_HASHES)
    remembered: list[str] = []
    for family in plan.families:
        remembered += source_ports.remembered(family, conntrack.outgoing(family.sources))
    return rules.render(plan, has_timeouts=has_timeouts, has_hashes=has_hashes, remembered=remembered)


def _accepts(text: str) -> bool:
    """Say whether this kernel would accept a table."""
    return nft.run("-c", "-f", "-", text=text).returncode == 0


def remove() -> list[str]:
    """Remove our tables if they exist, and return which; without nft or nf_tables there are none.

    Raises:
        RefusedError: the kernel refuses to remove them.
    """
    try:
        listed = nft.run("list", "tables").stdout.splitlines()
    except RefusedError:
        return []
    mine = [line for line in listed if line in {f"table inet {TABLE}", f"table inet {counting.OLD_TABLE}"}]
    if mine:
        execute("".join(f"delete {line}\n" for line in mine))
    return mine


def _log_lines(text: str) -> Iterator[str]:
    """Yield the lines of a rule set for the log; each element of a map gets a line, as there are many."""
    for line in text.splitlines():
        head, mark, elements = line.strip().partition(" { ")
        if mark and head.startswith("add element "):
            yield from (f"{head} {{ {each} }}" for each in elements.removesuffix(" }").split(", "))
        else:
            yield line.strip()


def is_supported() -> bool:
    """Say whether `nft` is installed and this kernel has nf_tables."""
    try:
        execute("list tables\n")
    except RefusedError:
        return False
    return True


def execute(text: str) -> None:
    """Run one transaction.

    Raises:
        RefusedError: the kernel refuses; nothing has changed.
    """
    done = nft.run("-f", "-", text=text)
    if done.returncode:
        raise refusal(done.stderr)


def refusal(stderr: str) -> RefusedError:
    """Return nft's message as an error that says what to do."""
    first = next((line for line in stderr.splitlines() if line.strip()), "nft failed without a word")
    if "Operation not permitted" in stderr:
        return RefusedError("the kernel refused NAT rules (operation not permitted)", "grant NET_ADMIN")
    if re.search(r"Protocol not supported|cache initialization failed", stderr):
        remedy = "load nf_tables on the node, or set EGRESS_NAT_BACKEND=iptables"
        return RefusedError("this kernel has no nf_tables", remedy)
    if "Message too long" in stderr:
        # Outside the first user namespace nft cannot raise its socket's buffer above net.core.wmem_max.
        return RefusedError("the rules are larger than one netlink message may be", "raise net.core.wmem_max")
    return RefusedError(
        f"nft refused the rules ({first.strip()})", "load nf_tables, nft_nat and nf_conntrack on the node"
    )
