"""Names to addresses, for everything that connects: from memory if possible, else from name servers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router.clock import SYSTEM
from egress_router.grammar.address import AddressError, parse_address
from egress_router.names.answer import Answer, ResolveError
from egress_router.names.cache import Cache, Entry, failed, known, put_off
from egress_router.names.hosts import parse_hosts
from egress_router.names.lookup import look_up
from egress_router.names.lookups import Lookups
from egress_router.names.metrics import FOUND, DnsMetrics
from egress_router.names.resolv_conf import parse_resolv_conf
from egress_router.names.servers import Servers
from egress_router.names.transport import Transport
from egress_router.names.watched import WatchedFile

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from egress_router.clock import Clock
    from egress_router.grammar.address import IPAddress
    from egress_router.metrics import Registry
    from egress_router.names.resolv_conf import ResolvConf
    from egress_router.settings.names import NamesSettings

_HOSTS_SECONDS = 5.0  # how long an answer from the hosts file is valid
_LOOK_AT_FILE_SECONDS = 1.0  # while names are being looked up


@dataclass(frozen=True, slots=True)
class Sources:
    """Where answers come from: what resolv.conf and the hosts file say at a moment, and the servers' port."""

    conf: Callable[[float], ResolvConf]
    hosts: Callable[[float], Mapping[str, tuple[IPAddress, ...]]]
    port: int = 53


def system_sources(
    resolv_conf: Path = Path("/etc/resolv.conf"), hosts: Path = Path("/etc/hosts"), port: int = 53
) -> Sources:
    """Return the files as sources; they are read again when they change."""
    return Sources(
        WatchedFile(resolv_conf, parse_resolv_conf).value, WatchedFile(hosts, parse_hosts).value, port
    )


class Resolver:
    """Resolves names in the form of `parse_name`, or that and a dot, for the event loop that runs it.

    The hosts file comes first, then what is remembered, then the name servers of resolv.conf, or those of
    the settings. Literal addresses are answered with themselves.
    """

    def __init__(
        self,
        settings: NamesSettings,
        registry: Registry,
        *,
        clock: Clock = SYSTEM,
        sources: Sources | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._sources = sources or system_sources()
        self._metrics = DnsMetrics(registry)
        self._servers = Servers(Transport(self._metrics), self._sources.port, clock)
        self._cache = Cache()
        self._lookups = Lookups(self._looked_up, settings, self._metrics)
        self._begun_with: ResolvConf | None = None
        self._next_look: asyncio.TimerHandle | None = None

    def candidates(self, name: str) -> tuple[str, ...]:
        """Return the absolute names that are tried for `name`, in order; an `Answer` says which it was."""
        now = self._clock.monotonic()
        if name.removesuffix(".") in self._sources.hosts(now):
            return (name.removesuffix("."),)
        return tuple(self._conf(now).candidates(name))

    def remember(self, name: str, addresses: tuple[IPAddress, ...]) -> None:
        """Store these as the last good addresses of a name; the name servers are still asked."""
        now = self._clock.monotonic()
        answer = Answer(addresses, now, stale=False, name=name)
        self._cache.put(name, Entry(now, now, answer, now + self._settings.stale_seconds))

    def cached(self, name: str) -> Answer | None:
        """Return the addresses of `name` if they are known, without waiting.

        While the name servers fail these are the last good ones, and the servers are asked again in the
        background.
        """
        now = self._clock.monotonic()
        absolute = name.removesuffix(".")
        local = self._sources.hosts(now).get(absolute)
        if local is not None:
            return Answer(local, now + _HOSTS_SECONDS, stale=False, name=absolute)
        entry = self._cache.get(name)
        if entry is None:
            return self._literal(name, now)
        answer = entry.answer
        if answer is None or now >= entry.good_until:
            return None
        if now < entry.until:
            self._metrics.hits.value += 1
            self._metrics.stale.value += answer.stale
            return answer
        if not answer.stale:
            return None
        self._renew(name)
        self._metrics.stale.value += 1
        return self._put_off(name, entry).answer

    def used_again(self, name: str, count: int) -> None:
        """Count that the addresses of a name, which were `cached`, have served `count` more requests."""
        if name.removesuffix(".") not in self._sources.hosts(self._clock.monotonic()):
            self._metrics.hits.value += count

    async def resolve(
        self, name: str, *, client: Hashable = None, denial_seconds: float | None = None
    ) -> Answer:
        """Return the addresses of `name`, asking the name servers if they are not known.

        Several requests for a name share one look-up, which ends when the last of them stops waiting.
        resolv.conf sets how long it may take. `client` is who asks: the number of names that are looked up
        for one client at a time is limited. A denial (no such name, or no address) is not taken from memory
        if it was learnt more than `denial_seconds` ago.

        Raises:
            ResolveError: there is no such name, it has no address, the name servers fail and no last good
                answer is left, or too many names are being looked up.
        """
        answer = self.cached(name)
        if answer is not None:
            return answer
        entry = self._cache.get(name)
        if entry is None or not entry.holds(self._clock.monotonic(), denial_seconds):
            entry = await self._renewed(name, entry, client)
        else:
            self._metrics.hits.value += 1
        if entry.answer is None:
            raise entry.error()
        self._metrics.stale.value += entry.answer.stale
        return entry.answer

    def close(self) -> None:
        """End all look-ups; those who wait for them are cancelled."""
        self._lookups.close()
        if self._next_look is not None:
            self._next_look.cancel()

    async def _renewed(self, name: str, entry: Entry | None, client: Hashable) -> Entry:
        """Wait for a look-up: to its end, or only for a moment if there is a last good answer."""
        if entry is None or not entry.serves(self._clock.monotonic()):
            self._begin_to_look()
            found = await self._lookups.wait(name, client)
            assert found is not None  # noqa: S101 - this wait has no time limit
            return found
        if self._renew(name):
            found = await self._lookups.wait(name, None, self._settings.stale_wait_seconds)
            if found is not None:
                return found
        return self._put_off(name, entry)

    def _renew(self, name: str) -> bool:
        self._begin_to_look()
        return self._lookups.renew(name)

    def _put_off(self, name: str, entry: Entry) -> Entry:
        entry = put_off(entry, self._clock.monotonic())
        self._cache.put(name, entry)
        return entry

    async def _looked_up(self, name: str) -> Entry:
        start = self._clock.monotonic()
        try:
            found = await look_up(self._servers, self._conf(start), name, self._settings.other_family_seconds)
        except ResolveError as error:
            end = self._clock.monotonic()
            entry = failed(self._cache.get(name), error, end)
            result = error.failure.value
        else:
            end = self._clock.monotonic()
            entry = known(self._cache.get(name), name, found, end, self._settings)
            result = FOUND if entry.answer is not None else entry.failure.value
        self._metrics.lookups[result].value += 1
        self._metrics.seconds.observe(end - start)
        self._cache.put(name, entry)
        return entry

    def _conf(self, now: float) -> ResolvConf:
        conf = self._sources.conf(now)
        return replace(conf, servers=self._settings.servers) if self._settings.servers else conf

    def _begin_to_look(self) -> None:
        """Look at resolv.conf every second while something is being looked up.

        Otherwise a look-up could wait for name servers that are no longer listed.
        """
        if self._next_look is None:
            self._begun_with = self._conf(self._clock.monotonic())
            loop = asyncio.get_running_loop()
            self._next_look = loop.call_later(_LOOK_AT_FILE_SECONDS, self._look_at_file)

    def _look_at_file(self) -> None:
        self._next_look = None
        if not len(self._lookups):
            return
        before = self._begun_with
        self._begin_to_look()
        if self._begun_with != before:
            self._lookups.restart()

    def _literal(self, name: str, now: float) -> Answer | None:
        if not (":" in name or name[-1:].isdigit()):
            return None
        try:
            address = parse_address(name)
        except AddressError:
            return None  # a name such as `db1`
        return Answer((address,), now + self._settings.ttl_ceiling, stale=False, name=name)
