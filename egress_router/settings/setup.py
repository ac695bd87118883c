"""Settings of `egress-router setup`."""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router.errors import ConfigError, Problem
from egress_router.grammar import redirect
from egress_router.grammar.egress_policy import DnsName
from egress_router.grammar.redirect import Router
from egress_router.manifests import egress_policy
from egress_router.settings import common
from egress_router.settings.cluster import CLUSTER_CIDRS
from egress_router.settings.hardware import MAC_ADDRESS, MacChoice
from egress_router.settings.names import NAMES_VARIABLES, NamesSettings, read_names
from egress_router.settings.policy import POLICY, GuardedSource
from egress_router.settings.standby import STANDBY_VARIABLES, StandbySettings, read_standby
from egress_router.settings.subnet import GATEWAY, SOURCE, read_sources
from egress_router.settings.subnet import Source as Source
from egress_router.settings.variables import (
    Environment,
    RulesSource,
    RulesVariable,
    Variable,
    non_empty,
    one_of,
    required,
    seconds,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from egress_router.grammar.address import IPNetwork
    from egress_router.grammar.egress_policy import EgressPolicy
    from egress_router.grammar.redirect import Redirects


class RouterMode(enum.Enum):
    """What `setup` does beside the network: redirect and exit, redirect and stay, or nothing.

    Nothing is for a container that comes after it: the router that stays (`network`), or a proxy.
    """

    INIT = "init"
    LEGACY = "legacy"
    NETWORK = "network"
    HTTP_PROXY = "http-proxy"
    DNS_PROXY = "dns-proxy"

    @property
    def redirects(self) -> bool:
        """Whether this mode sets redirect rules."""
        return self in {RouterMode.INIT, RouterMode.LEGACY}

    @property
    def forwards(self) -> bool:
        """Whether this pod forwards packets, now or once the router that stays is there."""
        return self.redirects or self is RouterMode.NETWORK


def _optional_interface(text: str) -> str | None:
    return None if text == "auto" else common.interface_name(text)


def _optional_path(text: str) -> Path | None:
    if text == "auto":
        return None
    if not text.startswith("/"):
        raise ValueError("expected the path of a network namespace, such as /proc/1/ns/net")
    return Path(text)


def _optional_file(text: str) -> Path | None:
    return Path(text) if text else None


_FOLLOWED = "in mode init nothing stays that could follow a name"
MODE = Variable(
    "EGRESS_ROUTER_MODE",
    "`init`: network and NAT, then exit; `legacy`: the same, then stay;"
    " `http-proxy`, `dns-proxy`: network only; `network`: the same for a `legacy` router that comes after it"
    " without privilege",
    "legacy",
    one_of(*(mode.value for mode in RouterMode)),
)
RULES = RulesVariable(
    "EGRESS_DESTINATION", "redirect rules; required in modes init and legacy", required=False
)
PARENT_INTERFACE = Variable(
    "EGRESS_PARENT_INTERFACE",
    "interface that carries the macvlan when setup creates it; `auto`: the one of the default route",
    "auto",
    _optional_interface,
)
PARENT_NETNS = Variable(
    "EGRESS_PARENT_NETNS",
    "network namespace that holds the parent interface; `auto`: the own one if it does, else /proc/1/ns/net",
    "auto",
    _optional_path,
)
MACVLAN_MODE = Variable(
    "EGRESS_MACVLAN_MODE",
    "`bridge`, `private`, `vepa`, `passthru`",
    "bridge",
    one_of("bridge", "private", "vepa", "passthru"),
)
NAT_BACKEND = Variable(
    "EGRESS_NAT_BACKEND",
    "`auto`: nftables, iptables where the kernel has no nf_tables; `nftables`; `iptables`",
    "auto",
    one_of("auto", "nftables", "iptables"),
)
CLAIM_TIMEOUT = Variable(
    "EGRESS_CLAIM_TIMEOUT", "seconds to wait for another owner of the source address to go", "30", seconds
)
ADMIN_RULES = Variable(
    "EGRESS_ADMIN_RULES_FILE",
    "file that fills the administrator's own chain, one nft statement a line; followed in mode legacy",
    "",
    _optional_file,
)
DEBUG = Variable("EGRESS_ROUTER_DEBUG", "any value: say every step and every rule", "", non_empty)

VARIABLES = (
    SOURCE,
    GATEWAY,
    MODE,
    RULES,
    POLICY,
    common.INTERFACE,
    PARENT_INTERFACE,
    PARENT_NETNS,
    MACVLAN_MODE,
    MAC_ADDRESS,
    CLUSTER_CIDRS,
    NAT_BACKEND,
    CLAIM_TIMEOUT,
    ADMIN_RULES,
    DEBUG,
    *STANDBY_VARIABLES,
    *NAMES_VARIABLES,
    common.ACCESS_LOG,
    common.DRAIN_SECONDS,
    *common.RUNTIME_VARIABLES,
)


@dataclass(frozen=True, slots=True)
class SetupSettings:
    """What `setup` is told by its environment; `destinations` is set in the modes that redirect."""

    mode: RouterMode
    sources: tuple[Source, ...]
    destinations: RulesSource | None
    interface: str
    parent_interface: str | None
    parent_netns: Path | None
    macvlan_mode: str
    mac_address: MacChoice | str
    cluster_cidrs: tuple[IPNetwork, ...]
    nat_backend: str
    claim_timeout: float
    debug: bool
    runtime: common.RuntimeSettings
    access_log: bool
    names: NamesSettings
    policy: RulesSource | None = None
    standby: StandbySettings | None = None
    admin_rules: Path | None = None
    drain_seconds: float = 25.0

    @property
    def source(self) -> GuardedSource | None:
        """Where redirect rules and the egress policy come from; None in the modes that do not redirect."""
        return None if self.destinations is None else GuardedSource(self.destinations, self.policy)

    @property
    def parse_policy(self) -> Callable[[str, str], EgressPolicy]:
        """What reads an egress policy that shall work in this router; it raises ConfigError."""
        return egress_policy.parse if self.mode is RouterMode.LEGACY else _policy_without_names

    def parse_rules(self, source: str, text: str) -> Redirects:
        """Read redirect rules that shall work in this router; `source` names them in errors.

        Raises:
            ConfigError: with every error of the text.
        """
        return redirect.parse(source, text, self.router)

    @property
    def router(self) -> Router:
        """What of this router decides whether a line, or an address of its name, can work in it."""
        addresses = frozenset(source.address for source in self.sources)
        follows_names = self.mode is RouterMode.LEGACY
        return Router(addresses, self.runtime.admin_port, self.cluster_cidrs, follows_names)


def read_setup(environ: Mapping[str, str]) -> SetupSettings:
    """Read the environment of `setup`.

    Raises:
        ConfigError: with everything that is missing or wrong.
    """
    environment = Environment(environ)
    mode_text = environment.read(MODE)
    sources = read_sources(environment)
    destinations = environment.read_rules(RULES)
    policy = environment.read_rules(POLICY)
    interface = environment.read(common.INTERFACE)
    parent_interface = environment.read(PARENT_INTERFACE)
    parent_netns = environment.read(PARENT_NETNS)
    macvlan_mode = environment.read(MACVLAN_MODE)
    mac_address = environment.read(MAC_ADDRESS)
    cluster_cidrs = environment.read(CLUSTER_CIDRS)
    nat_backend = environment.read(NAT_BACKEND)
    claim_timeout = environment.read(CLAIM_TIMEOUT)
    admin_rules = environment.read(ADMIN_RULES)
    runtime = common.read_runtime(environment)
    access_log = environment.read(common.ACCESS_LOG)
    drain_seconds = environment.read(common.DRAIN_SECONDS)
    standby = read_standby(environment)
    names = read_names(environment)
    _require_destinations(environment, mode_text, environ)

    def complete() -> SetupSettings:
        mode = RouterMode(required(mode_text))
        return SetupSettings(
            mode=mode,
            sources=sources,
            destinations=destinations if mode.redirects else None,
            interface=required(interface),
            parent_interface=parent_interface,
            parent_netns=parent_netns,
            macvlan_mode=required(macvlan_mode),
            mac_address=mac_address or MacChoice.AUTO,
            cluster_cidrs=required(cluster_cidrs),
            nat_backend=required(nat_backend),
            claim_timeout=required(claim_timeout),
            debug=non_empty(environ.get(DEBUG.name, "")),
            runtime=required(runtime),
            access_log=required(access_log),
            names=required(names),
            policy=policy,
            standby=standby,
            admin_rules=admin_rules,
            drain_seconds=required(drain_seconds),
        )

    return environment.finish(complete)


def rules_parser(environ: Mapping[str, str]) -> Callable[[str, str], Redirects] | None:
    """Return how redirect rules are read beside as much of this environment as is right by itself.

    None: the mode has none.
    """
    environment = Environment(environ)
    mode = environment.read(MODE)
    if mode is not None and not RouterMode(mode).redirects:
        return None
    addresses, admin_port = environment.read(SOURCE), environment.read(common.ADMIN_PORT)
    known = None if addresses is None else frozenset(address for address, _ in addresses)
    follows_names = mode is None or RouterMode(mode) is RouterMode.LEGACY
    router = Router(known, admin_port or 0, environment.read(CLUSTER_CIDRS) or (), follows_names)
    return functools.partial(redirect.parse, router=router)


def policy_parser(environ: Mapping[str, str]) -> Callable[[str, str], EgressPolicy]:
    """Return how an egress policy is read in this environment: names need a process that follows them."""
    mode = Environment(environ).read(MODE)
    return egress_policy.parse if mode != RouterMode.INIT.value else _policy_without_names


def _policy_without_names(source: str, text: str) -> EgressPolicy:
    policy = egress_policy.parse(source, text)
    problems = [
        Problem(source, each.line, None, f"entry {each.number}: dnsName needs mode legacy: {_FOLLOWED}")
        for each in policy.entries
        if isinstance(each.selector, DnsName)
    ]
    if problems:
        raise ConfigError(problems)
    return policy


def _require_destinations(environment: Environment, mode: str | None, environ: Mapping[str, str]) -> None:
    given = any(environ.get(name, "").strip() for name in (RULES.name, RULES.file_name))
    if mode is not None and RouterMode(mode).redirects and not given:
        reason = (
            f"is not set, nor is {RULES.file_name} (EGRESS_DESTINATION unspecified; mode {mode} needs it)"
        )
        environment.reject(Problem(RULES.name, None, None, reason))
