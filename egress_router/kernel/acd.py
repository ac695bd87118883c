"""Address conflict detection: probe for another owner before the claim, and wait for it to go.

The procedure is that of RFC 5227, the intervals are shorter: docs/decisions/address-claim.md says why. The
station sends and receives, so this can be tested without a wire and without waiting.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Protocol

from egress_router import log
from egress_router.clock import SYSTEM, Clock
from egress_router.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from egress_router.grammar.address import IPAddress

RETRY_WAIT = (0.5, 1.5)  # seconds between rounds; random, so that two that probe together do not stay in step
_CARRIER_INTERVAL = 0.1  # seconds between checks
_SETTLE = 1.0  # seconds: the kernel's link watch opens a bridge port at most this long after its carrier
_REMINDER = 10.0  # seconds between two log lines about the owner
_log = log.get("kernel")


class Station(Protocol):
    """The link on which addresses are claimed."""

    @property
    def name(self) -> str:
        """The interface."""

    def has_carrier(self) -> bool:
        """Say whether anybody could hear a probe."""

    def probe(self, addresses: Sequence[IPAddress]) -> Mapping[IPAddress, str]:
        """Run one round of probes; return the addresses that other stations have, and which stations."""

    def take(self, address: IPAddress) -> str | None:
        """Add the address to this link, after a round without an answer; return its owner if there is one."""


class ClaimWait:
    """How long to wait for an owner to go, or for a carrier; logs the owner from time to time."""

    def __init__(
        self, timeout: float, clock: Clock = SYSTEM, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.timeout = timeout
        self.sleep = sleep
        self._clock = clock
        self._deadline = clock.monotonic() + timeout
        self._next_reminder = clock.monotonic()

    def is_over(self) -> bool:
        """Say whether the time is over."""
        return self._clock.monotonic() >= self._deadline

    def wait_for(self, owners: Mapping[IPAddress, str]) -> None:
        """Wait for a moment; first log the owners, unless that was done a moment ago."""
        now = self._clock.monotonic()
        if now >= self._next_reminder:
            self._next_reminder = now + _REMINDER
            for address, owner in owners.items():
                _log.warning(
                    "address is in use; waiting for its owner to go",
                    address=address,
                    owner=owner,
                    left=f"{max(0, round(self._deadline - now))}s",
                )
        self.sleep(random.uniform(*RETRY_WAIT))  # noqa: S311 (spreads load, protects nothing)


def claim(station: Station, addresses: Sequence[IPAddress], wait: ClaimWait) -> Mapping[IPAddress, str]:
    """Claim addresses as soon as nobody else has them; return those that others still have, and the owners.

    Keeps probing until the wait is over: on a fail-over the old pod may need a moment to go. Silence counts
    only if the link had a carrier from the first probe to the last.

    Raises:
        RefusedError: there is no carrier, or NET_RAW is missing.
    """
    left = list(addresses)
    while True:
        _await_carrier(station, wait)
        owners = dict(station.probe(left))
        if not station.has_carrier():
            continue
        for address in left:
            owner = None if address in owners else station.take(address)
            if owner is not None:
                owners[address] = owner
        left = [address for address in left if address in owners]
        if not left or wait.is_over():
            return owners
        wait.wait_for(owners)


def in_use(station: Station, owners: Mapping[IPAddress, str], timeout: float) -> RefusedError:
    """Return the error for addresses that others have."""
    words = " and ".join(f"{address} is in use by {owner}" for address, owner in owners.items())
    return RefusedError(
        f"{words} on {station.name} (waited {timeout:g} s)",
        "stop its owner, or give this router another EGRESS_SOURCE",
    )


def _await_carrier(station: Station, wait: ClaimWait) -> None:
    if station.has_carrier():
        return
    _log.warning("the interface has no carrier; waiting for it", interface=station.name)
    while not station.has_carrier():
        if wait.is_over():
            raise RefusedError(
                f"{station.name} has no carrier, so nobody can be asked whether EGRESS_SOURCE is free",
                "bring its parent interface up, or check its cable and switch port",
            )
        wait.sleep(_CARRIER_INTERVAL)
    wait.sleep(_SETTLE)
