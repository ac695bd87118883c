"""Names to addresses, for everything that connects: from memory at once, from the name servers otherwise."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router.grammar.address import AddressError, parse_address
from egress_router.names import metrics
from egress_router.names.answer import Answer, Failure, ResolveError
from egress_router.names.cache import Cache, Entry, failed, known, put_off
from egress_router.names.hosts import parse_hosts
from egress_router.names.lookup import look_up
from egress_router.names.resolv_conf import parse_resolv_conf
from egress_router.names.servers import Servers
from egress_router.names.transport import Transport
from egress_router.names.watched import WatchedFile

if TYPE_CHECKING:
    from egress_router.metrics import Registry
    from egress_router.settings.names import NamesSettings

# How long somebody waits for fresh addresses while there are old ones: RFC 8767 section 5.
_STALE_PATIENCE_SECONDS = 1.8
_HOSTS_SECONDS = 5.0  # who keeps addresses out of the hosts file asks again after so long


class Resolver:
    """Resolves names in the form of `parse_name`, or that and a dot, for the event loop that runs it.

    The hosts file comes first, then what is remembered, then the name servers of resolv.conf. Both files are
    read again when they change. Literal addresses are answered with themselves.
    """

    def __init__(
        self,
        settings: NamesSettings,
        registry: Registry,
        *,
        resolv_conf: Path = Path("/etc/resolv.conf"),
        hosts: Path = Path("/etc/hosts"),
        port: int = 53,
    ) -> None:
        self._settings = settings
        self._conf = WatchedFile(resolv_conf, parse_resolv_conf)
        self._hosts = WatchedFile(hosts, parse_hosts)
        self._metrics = metrics.DnsMetrics(registry)
        self._servers = Servers(Transport(self._metrics), port)
        self._cache = Cache()
        self._lookups: dict[str, asyncio.Task[Entry]] = {}

    def cached(self, name: str) -> Answer | None:
        """Return the addresses of `name` if they are known, without waiting.

        While the name servers fail these are the last good ones, and they are asked again behind the scenes.
        """
        now = time.monotonic()
        local = self._hosts.value(now).get(name.removesuffix("."))
        if local is not None:
            return Answer(local, now + _HOSTS_SECONDS, stale=False)
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
        self._lookup(name)
        self._metrics.stale.value += 1
        return self._put_off(name, entry).answer

    async def resolve(self, name: str) -> Answer:
        """Return the addresses of `name`, asking the name servers where they are not known.

        Whoever asks for a name that is being looked up already waits for that look-up; to stop waiting does
        not end it for the others. How long it takes at most is what resolv.conf says.

        Raises:
            ResolveError: there is no such name, it has no address, or the name servers fail and no last good
                answer is left.
        """
        answer = self.cached(name)
        if answer is not None:
            return answer
        entry = self._cache.get(name)
        if entry is None or time.monotonic() >= entry.until:
            entry = await self._renewed(name, entry)
        else:
            self._metrics.hits.value += 1
        if entry.answer is None:
            raise entry.error()
        self._metrics.stale.value += entry.answer.stale
        return entry.answer

    def close(self) -> None:
        """Give up what is being looked up; those who wait for it are cancelled."""
        for lookup in self._lookups.values():
            lookup.cancel()

    async def _renewed(self, name: str, entry: Entry | None) -> Entry:
        """Wait for a look-up: to its end, or only for a moment while there is a last good answer."""
        lookup = self._lookup(name)
        if entry is not None and entry.serves(time.monotonic()):
            if lookup is not None:
                await asyncio.wait({lookup}, timeout=_STALE_PATIENCE_SECONDS)
            if lookup is None or not lookup.done():
                return self._put_off(name, entry)
        elif lookup is None:
            raise ResolveError(Failure.OVER_LIMIT, f"too many names are being looked up to look up {name}")
        else:
            # Unlike awaiting the task, this leaves it alone when the waiter is cancelled.
            await asyncio.wait({lookup})
        return lookup.result()

    def _put_off(self, name: str, entry: Entry) -> Entry:
        entry = put_off(entry, time.monotonic())
        self._cache.put(name, entry)
        return entry

    def _lookup(self, name: str) -> asyncio.Task[Entry] | None:
        """Return the look-up of `name` that is under way, or begin one; None: there are too many."""
        lookup = self._lookups.get(name)
        if lookup is None:
            if len(self._lookups) >= self._settings.max_lookups:
                self._metrics.lookups[Failure.OVER_LIMIT.value].value += 1
                self._metrics.limit.value += 1
                return None
            lookup = asyncio.get_running_loop().create_task(self._looked_up(name))
            self._lookups[name] = lookup
            lookup.add_done_callback(lambda _: self._lookups.pop(name))
        return lookup

    async def _looked_up(self, name: str) -> Entry:
        start = time.monotonic()
        try:
            found = await look_up(self._servers, self._conf.value(start), name)
        except ResolveError as error:
            end = time.monotonic()
            entry = failed(self._cache.get(name), error, end)
            result = error.failure.value
        else:
            end = time.monotonic()
            entry = known(self._cache.get(name), name, found, end, self._settings)
            result = metrics.FOUND if entry.answer is not None else entry.failure.value
        self._metrics.lookups[result].value += 1
        self._metrics.seconds.observe(end - start)
        self._cache.put(name, entry)
        return entry

    def _literal(self, name: str, now: float) -> Answer | None:
        if not (":" in name or name[-1:].isdigit()):
            return None
        try:
            address = parse_address(name)
        except AddressError:
            return None  # a name such as `db1`
        return Answer((address,), now + self._settings.ttl_ceiling, stale=False)
