"""Running look-ups: shared by all who ask for a name, limited in number, ended when nobody waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from egress_router.names.answer import Failure, ResolveError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable

    from egress_router.names.cache import Entry
    from egress_router.names.metrics import DnsMetrics
    from egress_router.settings.names import NamesSettings


class _Lookup:
    """One look-up. `clients` counts the waiters of each client; `renews`: it goes on even if nobody waits."""

    __slots__ = ("clients", "future", "name", "renews", "task")

    def __init__(self, name: str, *, renews: bool) -> None:
        self.name = name
        self.renews = renews
        self.clients: Counter[Hashable] = Counter()
        # Waiters hold the future, not the task: the task may be cancelled and started again.
        self.future: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[Entry] | None = None


class Lookups:
    """All look-ups of one resolver; `look_up` does one."""

    def __init__(
        self,
        look_up: Callable[[str], Coroutine[None, None, Entry]],
        settings: NamesSettings,
        metrics: DnsMetrics,
    ) -> None:
        self._look_up = look_up
        self._settings = settings
        self._metrics = metrics
        self._by_name: dict[str, _Lookup] = {}
        self._waited_for: Counter[Hashable] = Counter()  # how many look-ups each client waits for
        self._renewals = 0

    def __len__(self) -> int:
        return len(self._by_name)

    def renew(self, name: str) -> bool:
        """Look up a name that has last good addresses, whether anybody waits for it or not.

        At most half of the look-ups may be of this kind; False: there were too many.
        """
        known = self._by_name.get(name)
        if known is None:
            if len(self._by_name) >= self._settings.max_lookups or self._too_many_renewals():
                self._count_limit("dns_lookups")
                return False
            self._begin(name, renews=True)
        elif not known.renews and not self._too_many_renewals():
            known.renews = True
            self._renewals += 1
        return True

    async def wait(self, name: str, client: Hashable, seconds: float | None = None) -> Entry | None:
        """Return the result of the look-up of a name; None if it takes longer than `seconds`.

        Raises:
            ResolveError: OVER_LIMIT; too many names are being looked up, in total or for this client.
        """
        lookup = self._entered(name, client)
        try:
            # Unlike awaiting the future, this does not cancel it when the waiter is cancelled.
            await asyncio.wait({lookup.future}, timeout=seconds)
        finally:
            self._leave(lookup, client)
        return lookup.future.result() if lookup.future.done() else None

    def restart(self) -> None:
        """Start every look-up again, because its configuration has changed; those who wait go on waiting."""
        for lookup in self._by_name.values():
            self._run(lookup)

    def close(self) -> None:
        """End all look-ups; those who wait are cancelled."""
        for lookup in list(self._by_name.values()):
            lookup.future.cancel()
            self._end(lookup)

    def _entered(self, name: str, client: Hashable) -> _Lookup:
        lookup = self._by_name.get(name)
        if client is not None and (lookup is None or client not in lookup.clients):
            if self._waited_for[client] >= self._settings.max_lookups_per_client:
                self._count_limit("dns_lookups_per_client")
                raise ResolveError(
                    Failure.OVER_LIMIT,
                    f"too many names are being looked up for this client to look up {name}",
                )
            self._waited_for[client] += 1
        if lookup is None:
            if len(self._by_name) >= self._settings.max_lookups:
                self._count_limit("dns_lookups")
                if not self._made_room():
                    self._forget_wait(client)
                    raise _over_limit(name)
            lookup = self._begin(name, renews=False)
        lookup.clients[client] += 1
        return lookup

    def _made_room(self) -> bool:
        """End the oldest look-up that only clients wait for; False: there is none.

        A normal name is answered within milliseconds. So only names with silent servers can use up the limit
        for long, and they must not keep other clients waiting, however many there are.
        """
        for lookup in self._by_name.values():
            if not lookup.renews and None not in lookup.clients:
                lookup.future.set_exception(_over_limit(lookup.name))
                lookup.future.exception()  # read, so that asyncio does not report it if nobody waits any more
                self._end(lookup)
                return True
        return False

    def _leave(self, lookup: _Lookup, client: Hashable) -> None:
        lookup.clients[client] -= 1
        if not lookup.clients[client]:
            del lookup.clients[client]
            self._forget_wait(client)
        if not lookup.clients and not lookup.renews:
            self._end(lookup)

    def _forget_wait(self, client: Hashable) -> None:
        if client is None:
            return
        self._waited_for[client] -= 1
        if not self._waited_for[client]:
            del self._waited_for[client]

    def _too_many_renewals(self) -> bool:
        return self._renewals >= max(self._settings.max_lookups // 2, 1)

    def _begin(self, name: str, *, renews: bool) -> _Lookup:
        lookup = self._by_name[name] = _Lookup(name, renews=renews)
        self._renewals += renews
        self._run(lookup)
        return lookup

    def _run(self, lookup: _Lookup) -> None:
        before = lookup.task
        lookup.task = asyncio.get_running_loop().create_task(self._look_up(lookup.name))
        lookup.task.add_done_callback(lambda task: self._done(lookup, task))
        if before is not None:
            before.cancel()

    def _done(self, lookup: _Lookup, task: asyncio.Task[Entry]) -> None:
        if task is not lookup.task or lookup.future.done():
            return  # it was started again, or ended
        if task.cancelled():
            lookup.future.cancel()
        elif (error := task.exception()) is not None:
            lookup.future.set_exception(error)
        else:
            lookup.future.set_result(task.result())
        self._end(lookup)

    def _end(self, lookup: _Lookup) -> None:
        if self._by_name.get(lookup.name) is not lookup:
            return
        del self._by_name[lookup.name]
        self._renewals -= lookup.renews
        if lookup.task is not None:
            lookup.task.cancel()

    def _count_limit(self, limit: str) -> None:
        self._metrics.lookups[Failure.OVER_LIMIT.value].value += 1
        self._metrics.limits[limit].value += 1


def _over_limit(name: str) -> ResolveError:
    return ResolveError(Failure.OVER_LIMIT, f"too many names are being looked up to look up {name}")
