"""Parts of nftables text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.kernel.nat.plan import REPLY_MARK
from egress_router.kernel.nat.source_ports import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from egress_router.kernel.nat.plan import FamilyPlan, NatPlan


MARK = f"{REPLY_MARK:#010x}"


def table(body: Iterable[str]) -> list[str]:
    """Return our table with `body` in it."""
    return [f"table inet {TABLE} {{", *(f"  {line}" for line in body), "}"]


def whole_chain(lines: list[str]) -> list[str]:
    """Return the commands that make a chain hold only these lines, whether it existed or not."""
    name = lines[0].split()[1]
    return [f"add chain inet {TABLE} {name}", f"flush chain inet {TABLE} {name}", *table(lines)]


def interfaces(*names: str) -> str:
    """Return interfaces in the form that a rule matches."""
    return one_or_set([f'"{name}"' for name in names])


def one_or_set(addresses: list[str]) -> str:
    """Return one value, or several as a set."""
    return addresses[0] if len(addresses) == 1 else f"{{ {', '.join(addresses)} }}"


def of_protocol(plan: NatPlan, family: FamilyPlan, protocol: str) -> str:
    """Return the expression that matches a protocol of a family."""
    match = "" if len(plan.families) == 1 else f"meta nfproto ipv{family.version} "
    # Named again, because nft has to know the protocol before a port.
    return f"{match}meta l4proto {protocol}"
