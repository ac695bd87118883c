"""Log events, metrics and status of followed names and checked addresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.grammar.address import printed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from egress_router.grammar.address import IPAddress, Target
    from egress_router.log import Log
    from egress_router.metrics import Registry
    from egress_router.names.answer import ResolveError

_UP = "1 where every worker sees this address answer; 0 without an address: the name has none."


@dataclass(frozen=True, slots=True)
class Upstream:
    """One address of a destination, as it is shown; without one, `reason` says why the name has none."""

    destination: str
    address: str
    up: bool
    reason: str = ""

    def shown(self) -> dict[str, bool | int | float | str | None]:
        """Return it as /status shows it."""
        shown: dict[str, bool | int | float | str | None] = {
            "destination": self.destination,
            "address": self.address,
            "up": self.up,
        }
        return {**shown, "reason": self.reason} if self.reason else shown


class UpstreamReport:
    """Events of names and addresses, and the gauge of which address is up."""

    def __init__(self, registry: Registry, logger: Log) -> None:
        self._registry = registry
        self._log = logger

    def show(self, upstreams: Callable[[], Iterable[Upstream]]) -> None:
        """Show what `upstreams` returns when metrics are read: in between, names may change many times."""
        self._registry.before_snapshot(lambda: self._set(upstreams()))

    def resolved(self, name: str, addresses: Sequence[IPAddress], failure: ResolveError | None) -> None:
        """Log that the addresses of a name changed, or that look-ups began to fail, or to work again."""
        listed = ", ".join(map(str, addresses))
        if failure is None:
            self._log.info("name resolved", name=name, addresses=listed)
        else:
            self._log.warning("name does not resolve", name=name, reason=failure, serving=listed or "nothing")

    def left_out(self, destination: str, reason: str) -> None:
        """Log that an address of a destination is not used."""
        self._log.warning("an address of the destination is left out", destination=destination, reason=reason)

    def health(self, target: Target, *, up: bool) -> None:
        """Log that an address started or stopped answering."""
        if up:
            self._log.info("upstream answers again", address=printed(*target))
        else:
            self._log.warning("upstream does not answer", address=printed(*target))

    def _set(self, upstreams: Iterable[Upstream]) -> None:
        self._registry.forget("upstream_up")
        for each in upstreams:
            gauge = self._registry.flag(
                "upstream_up", _UP, destination=each.destination, address=each.address
            )
            gauge.value = int(each.up)
