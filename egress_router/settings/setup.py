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
from egress_router.settings import common
from egress_router.settings.cluster import CLUSTER_CIDRS
from egress_router.settings.hardware import MAC_ADDRESS, MacChoice
from egress_router.settings.names import NamesSettings
from egress_router.settings.policy import POLICY, GuardedSource, parse_policy
from egress_router.settings.standby import STANDBY_VARIABLES, StandbySettings, read_standby
from egress_router.settings.subnet import GATEWAY, SOURCE, read_sources
from egress_router.settings.subnet import Source as Source
from egress_router.settings.table import derived, group, optional_rules, read_all, setting, variables
from egress_router.settings.variables import (
    Environment,
    RulesSource,
    RulesVariable,
    Variable,
    non_empty,
    one_of,
    seconds,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from egress_router.grammar.address import IPNetwork
    from egress_router.grammar.egress_policy import EgressPolicy
    from egress_router.grammar.redirect import Redirects


class RouterMode(enum.Enum):
    """What `setup` does after the network is set up: redirect and exit, redirect and keep running, or exit.

    In the last case another container comes after it: the router that keeps running (`network`), or a proxy.
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
        """Whether this pod forwards packets, now or once the router that keeps running has started."""
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


def _mode(text: str) -> RouterMode:
    return RouterMode(one_of(*(mode.value for mode in RouterMode))(text))


_FOLLOWED = "in mode init nothing stays that could follow a name"
MODE = Variable(
    "EGRESS_ROUTER_MODE",
    "`init`: network and NAT, then exit; `legacy`: the same, then stay;"
    " `http-proxy`, `dns-proxy`: network only; `network`: the same for a `legacy` router that comes after it"
    " without privilege",
    "legacy",
    _mode,
)
RULES = RulesVariable(
    "EGRESS_DESTINATION", "redirect rules; required in modes init and legacy", required=False
)
ADMIN_RULES = Variable(
    "EGRESS_ADMIN_RULES_FILE",
    "file of rules of the administrator's own, one nft statement a line; followed in mode legacy",
    "",
    _optional_file,
)


def _read_destinations(environment: Environment) -> RulesSource | None:
    """Read the redirect rules of a mode that redirects; the other modes have none, whatever is set."""
    found, mode = environment.read_rules(RULES), environment.peek(MODE)
    if mode is None or not mode.redirects:
        return None
    if not environment.has(RULES):
        reason = f"is not set, nor is {RULES.file_name} (EGRESS_DESTINATION unspecified; mode {mode.value}"
        environment.reject(Problem(RULES.name, None, None, f"{reason} needs it)"))
    return found


@dataclass(frozen=True, slots=True)
class SetupSettings:
    """All settings of `setup`; `destinations` is set in the modes that redirect."""

    sources: tuple[Source, ...] = derived(read_sources, SOURCE, GATEWAY)
    mode: RouterMode = setting(MODE)
    destinations: RulesSource | None = derived(_read_destinations, RULES)
    policy: RulesSource | None = optional_rules(POLICY)
    interface: str = setting(common.INTERFACE)
    parent_interface: str | None = setting(
        Variable(
            "EGRESS_PARENT_INTERFACE",
            "interface that carries the macvlan when setup creates it; `auto`: the one of the default route",
            "auto",
            _optional_interface,
        )
    )
    parent_netns: Path | None = setting(
        Variable(
            "EGRESS_PARENT_NETNS",
            "network namespace that holds the parent interface; `auto`: the own one if it does, else"
            " /proc/1/ns/net",
            "auto",
            _optional_path,
        )
    )
    macvlan_mode: str = setting(
        Variable(
            "EGRESS_MACVLAN_MODE",
            "`bridge`, `private`, `vepa`, `passthru`",
            "bridge",
            one_of("bridge", "private", "vepa", "passthru"),
        )
    )
    mac_address: MacChoice | str = setting(MAC_ADDRESS)
    cluster_cidrs: tuple[IPNetwork, ...] = setting(CLUSTER_CIDRS)
    nat_backend: str = setting(
        Variable(
            "EGRESS_NAT_BACKEND",
            "`auto`: nftables, iptables where the kernel has no nf_tables; `nftables`; `iptables`",
            "auto",
            one_of("auto", "nftables", "iptables"),
        )
    )
    claim_timeout: float = setting(
        Variable(
            "EGRESS_CLAIM_TIMEOUT",
            "seconds to wait for another owner of the source address to go",
            "30",
            seconds,
        )
    )
    admin_rules: Path | None = setting(ADMIN_RULES)
    debug: bool = setting(
        Variable("EGRESS_ROUTER_DEBUG", "any value: say every step and every rule", "", non_empty)
    )
    access_log: bool = setting(common.ACCESS_LOG)
    drain_seconds: float = setting(common.DRAIN_SECONDS)
    standby: StandbySettings | None = derived(read_standby, *STANDBY_VARIABLES)
    names: NamesSettings = group(NamesSettings)
    runtime: common.RuntimeSettings = group(common.RuntimeSettings)

    @property
    def source(self) -> GuardedSource | None:
        """Where redirect rules and the egress policy come from; None in the modes that do not redirect."""
        return None if self.destinations is None else GuardedSource(self.destinations, self.policy)

    @property
    def parse_policy(self) -> Callable[[str, str], EgressPolicy]:
        """The parser of an egress policy for this router; it raises ConfigError."""
        return parse_policy if self.mode is RouterMode.LEGACY else _policy_without_names

    def parse_rules(self, source: str, text: str) -> Redirects:
        """Read redirect rules for this router; `source` names them in errors.

        Raises:
            ConfigError: with every error of the text.
        """
        return redirect.parse(source, text, self.router)

    @property
    def router(self) -> Router:
        """What decides whether a line, or an address of its name, can work in this router."""
        addresses = frozenset(source.address for source in self.sources)
        follows_names = self.mode is RouterMode.LEGACY
        return Router(addresses, self.runtime.admin_port, self.cluster_cidrs, follows_names)


VARIABLES = variables(SetupSettings)


def read_setup(environ: Mapping[str, str]) -> SetupSettings:
    """Read the environment of `setup`.

    Raises:
        ConfigError: with everything that is missing or wrong.
    """
    return read_all(SetupSettings, environ)


def rules_parser(environ: Mapping[str, str]) -> Callable[[str, str], Redirects] | None:
    """Return the parser of redirect rules for this environment; settings with errors are left out.

    None: the mode has no redirect rules.
    """
    environment = Environment(environ)
    mode = environment.read(MODE)
    if mode is not None and not mode.redirects:
        return None
    addresses, admin_port = environment.read(SOURCE), environment.read(common.ADMIN_PORT)
    known = None if addresses is None else frozenset(address for address, _ in addresses)
    follows_names = mode in {None, RouterMode.LEGACY}
    router = Router(known, admin_port or 0, environment.read(CLUSTER_CIDRS) or (), follows_names)
    return functools.partial(redirect.parse, router=router)


def policy_parser(environ: Mapping[str, str]) -> Callable[[str, str], EgressPolicy]:
    """Return the parser of an egress policy for this environment: names need a process that follows them."""
    mode = Environment(environ).read(MODE)
    return parse_policy if mode is not RouterMode.INIT else _policy_without_names


def _policy_without_names(source: str, text: str) -> EgressPolicy:
    policy = parse_policy(source, text)
    problems = [
        Problem(source, each.line, None, f"entry {each.number}: dnsName needs mode legacy: {_FOLLOWED}")
        for each in policy.entries
        if isinstance(each.selector, DnsName)
    ]
    if problems:
        raise ConfigError(problems)
    return policy
