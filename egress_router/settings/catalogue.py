"""All variables of all commands, and the variables of an environment that no command reads."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.settings import dns_proxy, http_proxy, setup
from egress_router.settings.variables import RulesVariable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from egress_router.settings.variables import Variable

VARIABLES: dict[str, Sequence[Variable[object] | RulesVariable]] = {
    "setup": setup.VARIABLES,
    "http-proxy": http_proxy.VARIABLES,
    "dns-proxy": dns_proxy.VARIABLES,
}
_PREFIX = "EGRESS_"
_HOST = "_SERVICE_HOST"
_log = log.get("settings")


def names(variables: Iterable[Variable[object] | RulesVariable]) -> frozenset[str]:
    """Return every name that these variables are read from."""
    found: set[str] = set()
    for variable in variables:
        found.add(variable.name)
        if isinstance(variable, RulesVariable):
            found.add(variable.file_name)
    return frozenset(found)


def warn_of_unknown(environ: Mapping[str, str]) -> None:
    """Log each variable that begins with EGRESS_ and that no command reads: it has no effect."""
    known = frozenset().union(*map(names, VARIABLES.values()))
    for name in unknown(environ, known):
        similar = difflib.get_close_matches(name, known, n=1)
        _log.warning(
            "variable is not known and has no effect", name=name, similar=similar[0] if similar else None
        )


def unknown(environ: Mapping[str, str], known: frozenset[str]) -> list[str]:
    """Return the names in `environ` that begin with EGRESS_ and are not known.

    Those that Kubernetes makes for Services (`EGRESS_1_SERVICE_HOST`, `EGRESS_1_PORT_80_TCP`; see "Accessing
    the Service: Environment Variables" in its documents) are left out; `…_SERVICE_HOST` identifies them.
    """
    services = tuple(name.removesuffix(_HOST) for name in environ if name.endswith(_HOST))
    of_services = tuple(f"{service}_{word}" for service in services for word in ("SERVICE_", "PORT"))
    return sorted(
        name
        for name in environ
        if name.startswith(_PREFIX) and name not in known and not name.startswith(of_services)
    )
