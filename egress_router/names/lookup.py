"""One name through the search list, in both address families at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from egress_router.names.answer import MAX_ADDRESSES, Failure, ResolveError
from egress_router.names.message import FAMILIES, Records

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.names.resolv_conf import ResolvConf
    from egress_router.names.servers import Servers


@dataclass(frozen=True, slots=True)
class Found:
    """What the name servers know of a name, for `ttl` seconds; no addresses: it has none, or does not exist.

    If there are no addresses, a `ttl` of None says that this must not be remembered.

    `incomplete`: addresses of one family may be missing, because that query failed. `name` is the candidate
    that has the addresses.
    """

    addresses: tuple[IPAddress, ...]
    ttl: int | None
    exists: bool
    incomplete: bool = False
    name: str = ""


async def look_up(servers: Servers, conf: ResolvConf, name: str, other_family_seconds: float) -> Found:
    """Return what is known about the first of the name's candidates that has addresses.

    Once one family has addresses, the other has `other_family_seconds` more: some servers never answer AAAA.

    Raises:
        ResolveError: no candidate has addresses, and the look-up of one of them failed.
    """
    failure: ResolveError | None = None
    without: list[Found] = []
    for candidate in conf.candidates(name):
        try:
            found = await _both_families(servers, conf, candidate, other_family_seconds)
        except ResolveError as error:
            # As the C library does: servers that are silent now would be silent for the next candidate, too.
            if error.failure is Failure.TIMEOUT:
                raise
            failure = failure or error
            continue
        if found.addresses:
            return replace(found, name=candidate)
        without.append(found)
    if failure is not None:
        raise failure
    return Found((), _least(found.ttl for found in without), exists=any(found.exists for found in without))


async def _both_families(servers: Servers, conf: ResolvConf, name: str, other_family_seconds: float) -> Found:
    tasks = [asyncio.create_task(servers.records(conf, name, family)) for family in FAMILIES]
    try:
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if waiting:
            seconds = other_family_seconds if any(map(_has_addresses, done)) else None
            await asyncio.wait(waiting, timeout=seconds)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    return combined(results)


def _has_addresses(task: asyncio.Task[Records]) -> bool:
    return task.exception() is None and bool(task.result().addresses)


def combined(results: Sequence[Records | BaseException]) -> Found:
    """Combine the answers of both families; a family that failed does not affect the other.

    Raises:
        ResolveError: no family has addresses, and one of them failed.
    """
    answers = [result for result in results if isinstance(result, Records)]
    faults = [result for result in results if isinstance(result, BaseException)]
    for fault in faults:
        if not isinstance(fault, ResolveError | asyncio.CancelledError):
            raise fault
    usable = [answer for answer in answers if answer.addresses]
    if usable:
        addresses = dict.fromkeys(address for answer in usable for address in answer.addresses)
        ttl = _least(answer.ttl for answer in usable)
        return Found(tuple(addresses)[:MAX_ADDRESSES], ttl, exists=True, incomplete=bool(faults))
    exists = all(answer.exists for answer in answers)
    # RFC 8020: NXDOMAIN is about the name, whatever type was asked for.
    if faults and exists:
        raise faults[0]
    return Found((), _least(answer.ttl for answer in answers), exists=exists)


def _least(ttls: Iterable[int | None]) -> int | None:
    least: int | None = None
    for ttl in ttls:
        if ttl is None:
            return None
        least = ttl if least is None else min(least, ttl)
    return least
