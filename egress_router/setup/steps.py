"""`egress-router setup`: the order of the steps, nothing else.

Everything is validated before anything is changed. The rules come before the interface, so that no packet
passes that they would stop; the address comes before the routes, so that a failed claim does not change the
pod's own routes.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.kernel.addresses import refuse_elsewhere
from egress_router.kernel.link import ensure_interface
from egress_router.kernel.nat import admin_rules, backend
from egress_router.kernel.netlink import Netlink
from egress_router.policy.egress_policy import names_of
from egress_router.settings.setup import RouterMode
from egress_router.setup import forwarding, nat_rules, network
from egress_router.setup.nat_rules import Established

if TYPE_CHECKING:
    from egress_router.grammar.redirect import Redirects
    from egress_router.settings.policy import Guarded
    from egress_router.settings.setup import SetupSettings
    from egress_router.standby.network import StandbyNetwork


_log = log.get("setup")


def run(settings: SetupSettings) -> Established:
    """Set everything up.

    Raises:
        ConfigError: the redirect rules are wrong.
        RefusedError: the kernel or the network refused a step.
    """
    end_when_asked()
    rules_text, guarded = _read_rules(settings)
    redirects = None if guarded is None else guarded.rules
    forwarding.require(settings)
    refuse_elsewhere(settings.interface, settings.sources)
    apply = backend.choose(settings.nat_backend)
    nat_rules.require_nftables(guarded, apply)
    with Netlink() as netlink:
        around = network.surroundings(netlink, settings)
    established = nat_rules.resolve_names(settings, guarded, Established(apply, around, rules_text, {}))
    names = names_of(established.policy_names)

    def hold(after: Established) -> None:
        nat_rules.put_in_force(settings, guarded, after, after.resolved, names)

    rules_of_admin = nat_rules.read_admin_rules(settings, apply)
    if rules_of_admin is not None:
        # Before our own rules: they create the file's chain if an earlier version had none.
        admin_rules.put_in_force(rules_of_admin)
    addresses = [source.address for source in settings.sources]
    denials = nat_rules.apply_rules(settings, guarded, established, addresses, names)
    established = replace(established, denials=denials)
    backend.remove_other(apply)
    established = replace(established, standby=_set_up_fence(settings))
    established = network.keep_network(settings, redirects, established, hold)
    forwarding.switch_on(settings)
    if settings.mode is RouterMode.DNS_PROXY:
        forwarding.lower_first_port()
    _report(settings, redirects, established)
    return established


def _report(settings: SetupSettings, redirects: Redirects | None, established: Established) -> None:
    _log.info(
        "network is set up",
        mode=settings.mode.value,
        source=", ".join(map(str, established.sources)),
        gateway=", ".join(dict.fromkeys(str(source.gateway) for source in settings.sources)),
        interface=settings.interface,
        mac=None if established.holdings is None else established.holdings.link.mac,
        rules=None if redirects is None else len(redirects.rules),
    )


def end_when_asked() -> None:
    """End at once on SIGTERM and SIGINT, which a container's first process ignores unless it handles them.

    Nothing has to be undone: the next run repairs what this one leaves half done. An exception instead of
    this could be lost, and the signal with it: the interpreter ignores those in `__del__` and in callbacks of
    weak references.
    """

    def end(_: int, __: object) -> None:
        os._exit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def _set_up_fence(settings: SetupSettings) -> StandbyNetwork | None:
    """If the router is one of a group, let nothing leave the interface before it has an address."""
    if settings.standby is None:
        return None
    from egress_router.standby import network as standby_network  # noqa: PLC0415 (only in a group of routers)

    with Netlink() as netlink:
        link = ensure_interface(netlink, settings)
    return standby_network.set_up(link, settings, settings.standby)


def _read_rules(settings: SetupSettings) -> tuple[str, Guarded[Redirects] | None]:
    source = settings.source
    if source is None:
        return "", None
    text = source.read()
    return text, source.parser(settings.parse_rules, settings.parse_policy)(source.name, text)
