"""The two objects of the cluster as values: the Lease that is the arbiter, and the EndpointSlice. Pure.

The Lease's holderIdentity names the members, at most two, each by the number of its run; leaseTransitions is
the term. Both are written with the version that was read, so that no change of another router is lost.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from egress_router.grammar.address import IPAddress
    from egress_router.standby.protocol.commands import Members

_NUMBER = re.compile(r"[0-9a-f]{16}")
_MAX_MEMBERS = 2
_WRITER = "egress-router/written-by"


class RecordError(ValueError):
    """The object was not written by a router; the text says what is wrong."""


class Record(NamedTuple):
    """What the Lease says."""

    members: Members
    term: int
    version: str


def number_text(number: int) -> str:
    """Return the name of a run in the Lease and in the fence's sets."""
    return f"{number:016x}"


def read_lease(body: object, dead: Iterable[int] = ()) -> Record:
    """Read a Lease without the members in `dead`: earlier runs in this pod, whose gates are closed.

    Raises:
        RecordError: it is not a Lease, or not one of a router.
    """
    metadata, spec = _part(body, "metadata"), _part(body, "spec")
    version = metadata.get("resourceVersion")
    if not isinstance(version, str) or not version:
        raise RecordError("it has no resourceVersion")
    holder = spec.get("holderIdentity") or ""
    names = holder.split(",") if isinstance(holder, str) and holder else []
    if not isinstance(holder, str) or len(names) > _MAX_MEMBERS or not all(map(_NUMBER.fullmatch, names)):
        raise RecordError(f"its holderIdentity {holder!r} was not written by an egress router")
    term = spec.get("leaseTransitions") or 0
    if not isinstance(term, int) or term < 0:
        raise RecordError("its leaseTransitions is not a number")
    return Record(frozenset(int(name, 16) for name in names) - set(dead), term, version)


def lease_patch(record: Record, seconds: float, writer: str, now: float) -> dict[str, object]:
    """Return the merge patch that writes a record, if the Lease still has the record's version."""
    return {
        "metadata": {"resourceVersion": record.version, "annotations": {_WRITER: writer}},
        "spec": {
            "holderIdentity": ",".join(map(number_text, sorted(record.members))),
            "leaseTransitions": record.term,
            "leaseDurationSeconds": round(seconds),
            # For people only: no router compares it with a clock.
            "renewTime": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        },
    }


def points_at(body: object, address: IPAddress) -> bool:
    """Return whether an EndpointSlice points to this address, and to no other.

    Raises:
        RecordError: it is not an EndpointSlice, or one for the other address family.
    """
    wanted = f"IPv{address.version}"
    kind = body.get("addressType") if isinstance(body, dict) else None
    if kind != wanted:
        raise RecordError(f"its addressType is {kind!r}, and the pod's address {address} is {wanted}")
    endpoints = body.get("endpoints") if isinstance(body, dict) else None
    return endpoints == _endpoints(address)


def slice_patch(body: object, address: IPAddress) -> dict[str, object]:
    """Return the merge patch that points an EndpointSlice to an address, if it has not changed since."""
    version = _part(body, "metadata").get("resourceVersion")
    return {"metadata": {"resourceVersion": version}, "endpoints": _endpoints(address)}


def _endpoints(address: IPAddress) -> list[dict[str, object]]:
    return [{"addresses": [str(address)], "conditions": {"ready": True}}]


def _part(body: object, name: str) -> Mapping[str, object]:
    part = body.get(name) if isinstance(body, dict) else None
    if not isinstance(part, dict):
        raise RecordError(f"it has no {name}")
    return part
