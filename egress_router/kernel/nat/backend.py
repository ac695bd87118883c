"""Chooses nftables or iptables to put the plan in force."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router import log
from egress_router.kernel.nat import iptables, nftables

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.kernel.nat.plan import NatPlan

_log = log.get("kernel")


def choose(setting: str) -> Callable[[NatPlan], None]:
    """Return the function that puts a plan in force; `auto`: nftables if the kernel and the image have it."""
    if setting == "nftables" or (setting == "auto" and nftables.is_supported()):
        return nftables.apply
    _log.info("NAT rules go to iptables", setting=setting)
    return iptables.apply


def remove_other(chosen: Callable[[NatPlan], None]) -> None:
    """Remove the rules that an earlier run set with the other backend; else both would be in force.

    Raises:
        RefusedError: there are such rules and the kernel refuses to remove them.
    """
    remove = iptables.remove if chosen is nftables.apply else nftables.remove
    for what in remove():
        _log.info("NAT rules of an earlier run removed", where=what)
