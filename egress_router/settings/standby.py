"""EGRESS_STANDBY and the settings that belong to it: two pods, one source address."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.errors import Problem
from egress_router.settings.table import read, setting, variables
from egress_router.settings.variables import Variable, one_of, whole

if TYPE_CHECKING:
    from egress_router.settings.variables import Environment

# RFC 1123 labels for a namespace, sub-domains for a name, as the API server checks them.
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class ObjectName:
    """An object of the cluster."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def _object(text: str) -> ObjectName | None:
    if not text:
        return None
    namespace, slash, name = text.partition("/")
    if not slash or not _NAMESPACE.fullmatch(namespace) or not _NAME.fullmatch(name):
        raise ValueError("expected NAMESPACE/NAME of an object of the cluster, such as egress/router-a")
    return ObjectName(namespace, name)


STANDBY = Variable(
    "EGRESS_STANDBY",
    "`on`: of all routers with this EGRESS_SOURCE on the wire exactly one is active, and setup stays in any"
    " mode; `off`",
    "off",
    one_of("on", "off"),
)
STANDBY_LEASE = Variable(
    "EGRESS_STANDBY_LEASE",
    "NAMESPACE/NAME of the Lease that decides when the routers cannot hear each other",
    "",
    _object,
)
STANDBY_SERVICE = Variable(
    "EGRESS_STANDBY_SERVICE",
    "NAMESPACE/NAME of the EndpointSlice that is kept pointing at the active pod",
    "",
    _object,
)


@dataclass(frozen=True, slots=True)
class StandbySettings:
    """The additional settings of a router that is one of a group."""

    lease: ObjectName | None = setting(STANDBY_LEASE)
    service: ObjectName | None = setting(STANDBY_SERVICE)
    port: int = setting(
        Variable(
            "EGRESS_STANDBY_PORT",
            "UDP port on which the routers hear each other on the pod network; never redirected",
            "9798",
            whole(1, 65535),
        )
    )


STANDBY_VARIABLES = (STANDBY, *variables(StandbySettings))


def read_standby(environment: Environment) -> StandbySettings | None:
    """Read the settings; None if EGRESS_STANDBY is off, or something is wrong, which `finish` reports."""
    switch, found = environment.read(STANDBY), read(StandbySettings, environment)
    if switch != "off" or found is None:
        return found
    for variable, value in ((STANDBY_LEASE, found.lease), (STANDBY_SERVICE, found.service)):
        if value is not None:
            reason = "is set, but EGRESS_STANDBY is off; set EGRESS_STANDBY=on, or leave it out"
            environment.reject(Problem(variable.name, None, str(value), reason))
    return None
