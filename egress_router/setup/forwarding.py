"""The sysctls that a pod needs: forwarding, and low ports for a proxy without root."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.kernel import sysctl

if TYPE_CHECKING:
    from egress_router.settings.setup import SetupSettings


_log = log.get("setup")


def _forwarding(settings: SetupSettings) -> list[str]:
    """Return the sysctls that let the pod forward packets, for the families that it has to forward."""
    names = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
    return [names[source.address.version] for source in settings.sources if settings.mode.forwards]


def require(settings: SetupSettings) -> None:
    """Check that forwarding is on, or can be switched on. RefusedError if not."""
    for name in _forwarding(settings):
        if sysctl.read(name) != 1 and not sysctl.is_writable(name):
            raise _no_forwarding(name)


def switch_on(settings: SetupSettings) -> None:
    """Switch forwarding on; last, because the kernel then forgets default routes that routers advertised."""
    for name in _forwarding(settings):
        if not sysctl.ensure(name, 1):
            raise _no_forwarding(name)


def _no_forwarding(name: str) -> RefusedError:
    dotted = name.replace("/", ".")
    return RefusedError(
        f"IP forwarding is off ({dotted}) and /proc/sys is read-only",
        f"set {dotted}=1 in the pod's securityContext.sysctls, or run the container privileged",
    )


def lower_first_port() -> None:
    """Let a proxy without root listen on any port."""
    if not sysctl.ensure_at_most("net/ipv4/ip_unprivileged_port_start", 0):
        _log.warning(
            "ports under 1024 stay closed to a proxy without root: /proc/sys is read-only; set"
            " net.ipv4.ip_unprivileged_port_start=0 in the pod's securityContext.sysctls"
        )
