"""What is remembered about names, and for how long. Pure: the time is a parameter."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from egress_router.names.answer import Answer, Failure, ResolveError

if TYPE_CHECKING:
    from egress_router.names.lookup import Found
    from egress_router.settings.names import NamesSettings

MAX_NAMES = 10_000
_NEGATIVE_SECONDS = (1.0, 60.0)  # bounds of how long a denial is remembered
_FIRST_RETRY_SECONDS = 1.0
_LAST_RETRY_SECONDS = 30.0  # RFC 8767 section 5: do not ask failing servers more often than this


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known about one name; the name servers are not asked again before `until`.

    `answer` may be given out until `good_until`, also as a stale one. Without an answer, `failure` and
    `reason` say why. `failures` counts failed look-ups since the last good one. `since` is when this was
    learnt.
    """

    until: float
    since: float
    answer: Answer | None = None
    good_until: float = 0.0
    failure: Failure = Failure.SERVER_FAILURE
    reason: str = ""
    failures: int = 0

    def last_good(self, now: float) -> Answer | None:
        """Return the last good answer, if it may still be given out."""
        return self.answer if now < self.good_until else None

    def serves(self, now: float) -> bool:
        """Whether there are last good addresses that may still be given out."""
        return self.last_good(now) is not None

    def holds(self, now: float, denial_seconds: float | None) -> bool:
        """Whether it can be used without asking; a denial, for `denial_seconds` at most."""
        if self.answer is None and denial_seconds is not None and now >= self.since + denial_seconds:
            return False
        return now < self.until

    def error(self) -> ResolveError:
        """Return why there is no answer, as a new exception."""
        return ResolveError(self.failure, self.reason)


def known(before: Entry | None, name: str, found: Found, now: float, settings: NamesSettings) -> Entry:
    """Return the entry after the name servers gave a definite answer, for one address family at least."""
    if found.addresses:
        until = now + min(max(found.ttl or 0, settings.ttl_floor), settings.ttl_ceiling)
        answer = Answer(found.addresses, until, stale=False, name=found.name)
        good_until = until + settings.stale_seconds
        if found.incomplete:
            return _completed(before, answer, good_until, now)
        return Entry(until, now, answer, good_until)
    shortest, longest = _NEGATIVE_SECONDS
    # RFC 2308 section 5: a denial without an SOA record must not be remembered.
    until = now if found.ttl is None else now + min(max(found.ttl, shortest), longest)
    if found.exists:
        return Entry(until, now, failure=Failure.NO_ADDRESS, reason=f"{name} has no address")
    return Entry(until, now, failure=Failure.NO_SUCH_NAME, reason=f"there is no name {name}")


def _completed(before: Entry | None, answer: Answer, good_until: float, now: float) -> Entry:
    """Add the remembered addresses of the family whose query failed, and ask for it again soon.

    One lost datagram must not remove addresses, least of all those of the only family that has a route. They
    stay as long as a complete answer would stay while every query fails.
    """
    failures = 1 if before is None else before.failures + 1
    until = min(answer.expires, now + _retry_after(failures))
    addresses = answer.addresses
    # Another candidate of the search list is another host.
    if before is not None and (kept := before.last_good(now)) and kept.name == answer.name:
        versions = {address.version for address in addresses}
        addresses += tuple(each for each in kept.addresses if each.version not in versions)
        good_until = before.good_until
    answer = replace(answer, addresses=addresses, expires=until)
    return Entry(until, now, answer, good_until, failures=failures)


def failed(before: Entry | None, error: ResolveError, now: float) -> Entry:
    """Return the entry after the name servers failed: the last good answer stays in use, if there is one."""
    if before is None or not before.serves(now):
        return Entry(now + _FIRST_RETRY_SECONDS, now, failure=error.failure, reason=str(error))
    return put_off(replace(before, failures=before.failures + 1), now)


def put_off(entry: Entry, now: float) -> Entry:
    """Return the entry with its answer marked as stale, to be asked for again after a growing time."""
    if entry.answer is None:
        return entry
    until = min(now + _retry_after(entry.failures), entry.good_until)
    return replace(entry, until=until, answer=replace(entry.answer, expires=until, stale=True))


def _retry_after(failures: int) -> float:
    return min(_FIRST_RETRY_SECONDS * 2.0 ** min(max(failures - 1, 0), 10), _LAST_RETRY_SECONDS)


class Cache:
    """Entries by name; when it is full, the least recently used name is dropped."""

    def __init__(self, limit: int = MAX_NAMES) -> None:
        self._limit = limit
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def get(self, name: str) -> Entry | None:
        """Return what is known about a name, and note that it was used."""
        entry = self._entries.get(name)
        if entry is not None:
            self._entries.move_to_end(name)
        return entry

    def put(self, name: str, entry: Entry) -> None:
        """Remember `entry`."""
        self._entries[name] = entry
        self._entries.move_to_end(name)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)
