"""`egress-router setup`: the order of the steps, nothing else.

Everything is validated before anything is changed. The rules come before the interface, so that nothing
passes that they would stop; the address comes before the routes, so that a claim that fails leaves the pod's
own routes alone.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import ConfigError, Problem, RefusedError
from egress_router.grammar.address import unmapped
from egress_router.kernel import sysctl, wire
from egress_router.kernel.addresses import ensure_addresses, keep_to_itself, refuse_elsewhere
from egress_router.kernel.link import ensure_interface, parent_outside
from egress_router.kernel.nat import admin_rules, backend, nftables
from egress_router.kernel.nat.plan import Surroundings, make_plan
from egress_router.kernel.netlink import Netlink
from egress_router.kernel.routing import cluster_networks, ensure_routes, needs_route, versions
from egress_router.names.resolv_conf import name_servers
from egress_router.net import gateway
from egress_router.net.own import addresses as own_addresses
from egress_router.policy.egress_policy import NO_NAMES, names_of
from egress_router.redirect import policy
from egress_router.redirect.first import first_addresses, first_answers
from egress_router.redirect.usable import Usable
from egress_router.settings.setup import ADMIN_RULES, RouterMode
from egress_router.standby import network as standby_network

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from egress_router.grammar.address import IPAddress, IPNetwork
    from egress_router.grammar.redirect import Redirects
    from egress_router.kernel.addresses import Holdings
    from egress_router.kernel.nat.plan import NatPlan
    from egress_router.kernel.rtnl_types import Link
    from egress_router.policy.egress_policy import NamesOf
    from egress_router.policy.redirected import Denial
    from egress_router.redirect.lines import Resolved
    from egress_router.settings.policy import Guarded
    from egress_router.settings.setup import SetupSettings
    from egress_router.standby.network import Stand

RESOLV_CONF = Path("/etc/resolv.conf")
ANNOUNCE_INTERVAL = 2.0  # seconds (RFC 5227 1.1)
_REPEAT_SECONDS = 0.1
_ANSWER_SECONDS = 1.2  # the kernel asks a second time after 1 s
_POLL_SECONDS = 0.01
_log = log.get("setup")


@dataclass(frozen=True, slots=True)
class Established:
    """What `run` set up: how NAT rules are put in force, what they know of the pod, and the redirects.

    `resolved` is what the names of redirects led to, `policy_names` what those of the egress policy did, and
    `denials` what it denied because of that. `stand` is set where the router is one of a group: then
    nothing is claimed, but a fence is up.
    """

    apply: Callable[[NatPlan], None]
    surroundings: Surroundings
    rules_text: str
    resolved: Resolved
    holdings: Holdings | None = None
    stand: Stand | None = None
    policy_names: Mapping[str, tuple[IPAddress, ...]] = field(default_factory=dict)
    denials: tuple[Denial, ...] = ()

    @property
    def sources(self) -> tuple[IPAddress, ...]:
        """The source addresses that the router holds."""
        return () if self.holdings is None else self.holdings.held


def run(settings: SetupSettings) -> Established:
    """Set everything up.

    Raises:
        ConfigError: the redirect rules are wrong.
        RefusedError: the kernel or the network refused a step.
    """
    _end_when_asked()
    rules_text, guarded = _read_rules(settings)
    redirects = None if guarded is None else guarded.rules
    _require_forwarding(settings)
    refuse_elsewhere(settings.interface, settings.sources)
    apply = backend.choose(settings.nat_backend)
    _require_nftables(guarded, apply)
    with Netlink() as netlink:
        surroundings = _surroundings(netlink, settings)
    established = _resolve(settings, guarded, Established(apply, surroundings, rules_text, {}))
    names = names_of(established.policy_names)

    def hold(after: Established) -> None:
        put_in_force(settings, guarded, after, after.resolved, names)

    rules_of_admin = read_admin_rules(settings, apply)
    denials = _apply(settings, guarded, established, [source.address for source in settings.sources], names)
    established = replace(established, denials=denials)
    if rules_of_admin is not None:
        nftables.execute(rules_of_admin)
    backend.remove_other(apply)
    established = replace(established, stand=_put_up_fence(settings))
    established = keep_network(settings, redirects, established, hold)
    _forward(settings)
    if settings.mode is RouterMode.DNS_PROXY:
        _lower_first_port()
    _log.info(
        "network is set up",
        mode=settings.mode.value,
        source=", ".join(map(str, established.sources)),
        gateway=", ".join(dict.fromkeys(str(source.gateway) for source in settings.sources)),
        interface=settings.interface,
        mac=None if established.holdings is None else established.holdings.link.mac,
        rules=None if redirects is None else len(redirects.rules),
    )
    return established


def _end_when_asked() -> None:
    """End at once on SIGTERM and SIGINT, which a container's first process ignores unless it handles them.

    Nothing has to be undone: the next run repairs what this one leaves half done.
    """

    def end(_: int, __: object) -> None:
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def read_admin_rules(settings: SetupSettings, apply: Callable[[NatPlan], None]) -> str | None:
    """Return the transaction that fills the administrator's chain; None where no file does.

    Raises:
        ConfigError: the file cannot be read, or nft does not take a line of it.
        RefusedError: nft is not there, or not what puts rules in force.
    """
    path = settings.admin_rules
    if path is None:
        return None
    if apply is not nftables.apply:
        raise RefusedError("EGRESS_ADMIN_RULES_FILE holds nft statements", "set EGRESS_NAT_BACKEND=nftables")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        problem = Problem(ADMIN_RULES.name, None, str(path), f"cannot be read ({error})")
        raise ConfigError([problem]) from None
    return admin_rules.check(ADMIN_RULES.name, text, settings.interface)


def _require_nftables(guarded: Guarded[Redirects] | None, apply: Callable[[NatPlan], None]) -> None:
    if guarded is None or apply is nftables.apply:
        return
    if guarded.policy is not None:
        raise RefusedError(
            "an egress policy needs nftables in redirect mode",
            "set EGRESS_NAT_BACKEND=nftables on a kernel with nf_tables, or take the policy out",
        )
    if guarded.rules.names:
        line = guarded.rules.names[0]
        raise RefusedError(
            f"names need nftables, and line {line.line} leads to {line.name}",
            "set EGRESS_NAT_BACKEND=nftables on a kernel with nf_tables, or give addresses",
        )


def _resolve(
    settings: SetupSettings, guarded: Guarded[Redirects] | None, established: Established
) -> Established:
    """Ask for the names of lines and of the egress policy, so that neither begins without addresses."""
    if guarded is None:
        return established
    redirects = guarded.rules
    of_policy = () if guarded.policy is None else guarded.policy.dns_names
    answers = first_answers(settings.names, {*of_policy, *(line.name for line in redirects.names)})
    usable = Usable(settings.router, settings.interface, lambda: redirects)
    return replace(
        established,
        resolved=first_addresses(answers, redirects.names, usable),
        policy_names={name: answers[name] for name in of_policy if name in answers},
    )


def put_in_force(
    settings: SetupSettings,
    guarded: Guarded[Redirects] | None,
    established: Established,
    resolved: Resolved,
    names: NamesOf = NO_NAMES,
) -> tuple[Denial, ...]:
    """Make the NAT rules what redirects, the egress policy and the names of both say, in one transaction.

    Returns what the policy denies of where the redirects lead; `names` are those that it names.

    Raises:
        RefusedError: the kernel refuses.
    """
    _require_nftables(guarded, established.apply)
    changed = replace(established, resolved=resolved)
    return _apply(settings, guarded, changed, established.sources, names)


def _apply(
    settings: SetupSettings,
    guarded: Guarded[Redirects] | None,
    established: Established,
    sources: Sequence[IPAddress],
    names: NamesOf,
) -> tuple[Denial, ...]:
    admin_port, redirects = settings.runtime.admin_port, None if guarded is None else guarded.rules
    around, resolved = established.surroundings, established.resolved
    plan = make_plan(redirects, sources, settings.interface, admin_port, around, resolved)
    denials = () if guarded is None else policy.denials(guarded, resolved, names)
    # Sets are there for the families that the router has an address in now.
    denials = tuple(each for each in denials if plan.family(each.address.version) is not None)
    established.apply(replace(plan, denials=denials))
    _log.debug("NAT rules are in force", lines=0 if redirects is None else len(redirects.rules))
    return denials


def _surroundings(netlink: Netlink, settings: SetupSettings) -> Surroundings:
    """Look at the pod's other interfaces: which is on the outside network, and what the others lead to."""
    parent = parent_outside(netlink, settings)
    outside = {link.index for link in (parent, netlink.link(settings.interface)) if link is not None}
    main = [route for version in versions() for route in netlink.routes(version)]
    kept = (*_kept_name_servers(), *settings.cluster_cidrs)
    return Surroundings(
        None if parent is None else parent.name,
        cluster_networks(main, outside, kept),
        0 if settings.standby is None else settings.standby.port,
    )


def _put_up_fence(settings: SetupSettings) -> Stand | None:
    """Where the router is one of a group, have nothing leave the interface before it has an address."""
    if settings.standby is None:
        return None
    with Netlink() as netlink:
        link = ensure_interface(netlink, settings)
    return standby_network.put_up(link, settings, settings.standby)


def keep_network(
    settings: SetupSettings,
    redirects: Redirects | None,
    established: Established,
    hold: Callable[[Established], None],
) -> Established:
    """Make interface, addresses and routes what they shall be, and announce; return what holds then.

    `hold` puts the rules in force where the router holds other addresses than before. Of a group of routers
    whoever is active announces.

    Raises:
        RefusedError: the kernel or the network refuses.
    """
    with Netlink() as netlink:
        link = ensure_interface(netlink, settings)
        for each in (link, parent_outside(netlink, settings)):
            if each is not None:
                keep_to_itself(each)
        if settings.standby is not None:
            holdings = standby_network.ensure_addresses(netlink, link, settings.sources)
        else:
            holdings = ensure_addresses(netlink, link, settings, _needed(redirects))
        held = [source for source in settings.sources if source.address in holdings.held]
        after = replace(established, holdings=holdings)
        before = established.sources or tuple(source.address for source in settings.sources)
        if after.sources != before:
            hold(after)
        ensure_routes(netlink, holdings.link, held, (*_kept_name_servers(), *settings.cluster_cidrs))
    if settings.standby is None:
        _announce(holdings)
    return after


def _needed(redirects: Redirects | None) -> frozenset[IPAddress]:
    """Return the source addresses that a line names: without them the router cannot do its job."""
    if redirects is None:
        return frozenset()
    leavings = {rule.leaving for rule in redirects.rules} | {rule.leaving for rule in redirects.names}
    leavings |= {redirects.fallback_v4_leaving, redirects.fallback_v6_leaving}
    return frozenset(each for each in leavings if isinstance(each, IPv4Address | IPv6Address))


def _kept_name_servers() -> tuple[IPNetwork, ...]:
    """Return the name servers that need a route to stay reachable."""
    try:
        text = RESOLV_CONF.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    own = own_addresses()
    addresses = map(unmapped, name_servers(text))
    return tuple(ip_network(each) for each in addresses if needs_route(each) and each not in own)


def _read_rules(settings: SetupSettings) -> tuple[str, Guarded[Redirects] | None]:
    source = settings.source
    if source is None:
        return "", None
    text = source.read()
    return text, source.parser(settings.parse_rules, settings.parse_policy)(source.name, text)


def _forwarding(settings: SetupSettings) -> list[str]:
    """Return the sysctls that let the pod forward packets, for those families in which it shall."""
    names = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
    return [names[source.address.version] for source in settings.sources if settings.mode.forwards]


def _require_forwarding(settings: SetupSettings) -> None:
    for name in _forwarding(settings):
        if sysctl.read(name) != 1 and not sysctl.is_writable(name):
            raise _no_forwarding(name)


def _forward(settings: SetupSettings) -> None:
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


def _lower_first_port() -> None:
    if not sysctl.ensure_at_most("net/ipv4/ip_unprivileged_port_start", 0):
        _log.warning(
            "ports under 1024 stay closed to a proxy without root: /proc/sys is read-only; set"
            " net.ipv4.ip_unprivileged_port_start=0 in the pod's securityContext.sysctls"
        )


def _announce(holdings: Holdings) -> None:
    wire.announce(holdings.link, holdings.held)
    if holdings.new:
        _ask_gateways(holdings.link)


def _ask_gateways(link: Link) -> gateway.Interface | None:
    """Have the kernel ask the gateways who they are: a gateway that is asked learns who asks."""
    outside = gateway.look(link.name)
    if outside is not None:
        for each in outside.gateways:
            gateway.provoke(outside, each)
    return outside


def announce_again(holdings: Holdings) -> None:
    """Announce what was claimed once more: the first time may be lost while a switch still learns the port.

    To be called `ANNOUNCE_INTERVAL` after `run` by a process that stays. Says so, too, if the gateway has not
    answered by then.
    """
    wire.announce(holdings.link, holdings.new)
    _warn_of_silence(gateway.look(holdings.link.name))


def finish(holdings: Holdings) -> None:
    """Do what remains before a process ends that does not stay.

    The kernel announces IPv4 addresses by itself, also after the end; those of IPv6 are repeated at once.
    """
    if not holdings.new:
        return
    link = holdings.link
    with Netlink() as netlink:
        for address in holdings.new:
            if address.version == 4:
                netlink.announce(link.index, address)
    outside = _ask_gateways(link)
    limit = time.monotonic() + _ANSWER_SECONDS
    time.sleep(_REPEAT_SECONDS)
    wire.announce(link, [address for address in holdings.new if address.version == 6])
    while outside is not None and outside.silent and time.monotonic() < limit:
        time.sleep(_POLL_SECONDS)
        outside = gateway.look(link.name)
    _warn_of_silence(outside)


def _warn_of_silence(outside: gateway.Interface | None) -> None:
    """Say what a wrong parent interface or a wrong gateway looks like; the gateway may also just be late."""
    if outside is None:
        return
    for each in outside.silent:
        _log.warning(
            "the gateway does not answer: is it the right one, and is the parent interface in its network?",
            gateway=each,
            interface=outside.name,
        )
