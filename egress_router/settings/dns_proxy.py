"""Settings of `egress-router dns-proxy`."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.grammar import forward
from egress_router.settings import common
from egress_router.settings.names import NamesSettings
from egress_router.settings.policy import POLICY, GuardedSource
from egress_router.settings.subnet import OPTIONAL_SOURCE, known_sources
from egress_router.settings.table import group, optional_rules, read_all, rules, setting, variables
from egress_router.settings.variables import (
    Environment,
    RulesSource,
    RulesVariable,
    Variable,
    non_empty,
    seconds,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from egress_router.grammar.address import IPAddress
    from egress_router.grammar.forward import Forwards

RULES = RulesVariable("EGRESS_DNS_PROXY_DESTINATION", "forwarding lines")


@dataclass(frozen=True, slots=True)
class DnsProxySettings:
    """All settings of the TCP forwarder.

    `sources` are the router's addresses; a line may name one of them.
    """

    proxy: common.ProxySettings = group(common.ProxySettings)
    names: NamesSettings = group(NamesSettings)
    rules: RulesSource = rules(RULES)
    policy: RulesSource | None = optional_rules(POLICY)
    idle_seconds: float = setting(
        Variable(
            "EGRESS_DNS_PROXY_IDLE_SECONDS",
            "a connection without a byte for so long is closed",
            "3600",
            seconds,
        )
    )
    connect_seconds: float = setting(
        Variable(
            "EGRESS_DNS_PROXY_CONNECT_SECONDS",
            "time for all connection attempts to a destination",
            "10",
            seconds,
        )
    )
    debug: bool = setting(
        Variable(
            "EGRESS_DNS_PROXY_DEBUG",
            "any value: a line on stdout for every connection, resolution change and health change",
            "",
            non_empty,
        )
    )
    sources: tuple[IPAddress, ...] = setting(OPTIONAL_SOURCE)

    @property
    def source(self) -> GuardedSource:
        """Where the lines come from, and the egress policy that applies to them."""
        return GuardedSource(self.rules, self.policy)


VARIABLES = variables(DnsProxySettings)


def read_dns_proxy(environ: Mapping[str, str]) -> DnsProxySettings:
    """Read the environment of `dns-proxy`.

    Raises:
        ConfigError: with everything that is missing or wrong.
    """
    return read_all(DnsProxySettings, environ)


def rules_parser(environ: Mapping[str, str]) -> Callable[[str, str], Forwards]:
    """Return the parser of forwarding lines for this environment; settings with errors are left out."""
    environment = Environment(environ)
    return functools.partial(
        forward.parse,
        admin_port=environment.read(common.ADMIN_PORT) or 0,
        sources=known_sources(environ),
    )
