"""Settings of `egress-router http-proxy`."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

from egress_router.errors import Problem
from egress_router.grammar import acl
from egress_router.grammar.address import parse_port
from egress_router.settings import common
from egress_router.settings.memory import held_bytes
from egress_router.settings.names import NamesSettings
from egress_router.settings.policy import POLICY, GuardedSource
from egress_router.settings.subnet import OPTIONAL_SOURCE, known_sources
from egress_router.settings.table import group, optional_rules, read, rules, setting, variables
from egress_router.settings.variables import (
    Environment,
    RulesSource,
    RulesVariable,
    Variable,
    each,
    non_empty,
    one_of,
    required,
    seconds,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from egress_router.grammar.acl import AccessList
    from egress_router.grammar.address import IPAddress


def _connect_ports(text: str) -> frozenset[int] | None:
    if text == "any":
        return None
    try:
        return frozenset(each(text, parse_port))
    except ValueError as error:
        raise ValueError(f"{error}; expected ports separated by commas, or `any`") from None


SniMode = Literal["report", "enforce", "off"]


def _sni(text: str) -> SniMode:
    return cast("SniMode", one_of("report", "enforce", "off")(text))


def _port_pair(text: str) -> tuple[int, int]:
    local, colon, remote = text.partition(":")
    return parse_port(local), parse_port(remote if colon else local)


def _transparent_ports(text: str) -> tuple[tuple[int, int], ...]:
    if not text:
        return ()
    try:
        pairs = each(text, _port_pair)
    except ValueError as error:
        raise ValueError(f"{error}; expected ports separated by commas, such as 443,8443:443") from None
    local = [pair[0] for pair in pairs]
    twice = next((port for port in local if local.count(port) > 1), None)
    if twice is not None:
        raise ValueError(f"port {twice} is given twice")
    return tuple(pairs)


RULES = RulesVariable("EGRESS_HTTP_PROXY_DESTINATION", "allow/deny list")
PORT = Variable("EGRESS_HTTP_PROXY_PORT", "listening port, IPv4 and IPv6", "8080", whole(1, 65535))
TRANSPARENT_PORTS = Variable(
    "EGRESS_HTTP_PROXY_TRANSPARENT_PORTS",
    "ports on which clients speak TLS or HTTP/1 as if the router were the server (`443,80`;"
    " `8443:443` for another port at the origin)",
    "",
    _transparent_ports,
)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits of every request; bytes and seconds. `held_bytes` is what one worker may hold."""

    head_bytes: int = setting(
        Variable(
            "EGRESS_HTTP_PROXY_HEAD_BYTES",
            "largest head of a request or answer",
            "65536",
            whole(1024, 1_048_576),
        )
    )
    head_fields: int = setting(
        Variable("EGRESS_HTTP_PROXY_HEAD_FIELDS", "most fields in a head", "200", whole(10, 10_000))
    )
    head_seconds: float = setting(
        Variable("EGRESS_HTTP_PROXY_HEAD_SECONDS", "time in which a head must be complete", "10", seconds)
    )
    connect_seconds: float = setting(
        Variable(
            "EGRESS_HTTP_PROXY_CONNECT_SECONDS",
            "time for the look-up and all connection attempts",
            "10",
            seconds,
        )
    )
    keepalive_seconds: float = setting(
        Variable(
            "EGRESS_HTTP_PROXY_KEEPALIVE_SECONDS",
            "how long a connection may be idle between requests",
            "60",
            seconds,
        )
    )
    answer_seconds: float = setting(
        Variable("EGRESS_HTTP_PROXY_ANSWER_SECONDS", "time to the first byte of an answer", "300", seconds)
    )
    idle_seconds: float = setting(
        Variable(
            "EGRESS_HTTP_PROXY_IDLE_SECONDS",
            "a tunnel, or an answer that has begun, without a byte for so long is closed",
            "3600",
            seconds,
        )
    )
    linger_seconds: float = setting(
        Variable(
            "EGRESS_HTTP_PROXY_LINGER_SECONDS",
            "how long the rest of a refused request is read and dropped, so that its answer arrives",
            "30",
            seconds,
        )
    )
    buffer_bytes: int = setting(
        Variable(
            "EGRESS_HTTP_PROXY_BUFFER_BYTES",
            "body bytes held for a slow reader, each direction; above 65536 it is 65536: one read",
            "262144",
            whole(16_384, 16_777_216),
        )
    )
    held_bytes: int = setting(
        Variable(
            "EGRESS_HTTP_PROXY_HELD_BYTES",
            "bytes of unfinished heads and bodies that all connections together may hold; "
            "`auto`: a quarter of the container's memory limit, 256 MiB where it has none",
            "auto",
            held_bytes,
        )
    )


@dataclass(frozen=True, slots=True)
class HttpProxySettings:
    """All settings of the HTTP proxy; `connect_ports` None means any port.

    `sources` are the router's addresses; a rule may name one of them.
    """

    proxy: common.ProxySettings = group(common.ProxySettings)
    names: NamesSettings = group(NamesSettings)
    rules: RulesSource = rules(RULES)
    policy: RulesSource | None = optional_rules(POLICY)
    port: int = setting(PORT)
    connect_ports: frozenset[int] | None = setting(
        Variable(
            "EGRESS_HTTP_PROXY_CONNECT_PORTS",
            "ports that CONNECT may name (`443,8443`), or `any`",
            "any",
            _connect_ports,
        )
    )
    report_only: bool = setting(
        Variable(
            "EGRESS_HTTP_PROXY_REPORT_ONLY",
            "any value: allow what the list would deny, log and count it as such",
            "",
            non_empty,
        )
    )
    transparent_ports: tuple[tuple[int, int], ...] = setting(TRANSPARENT_PORTS)
    sni: SniMode = setting(
        Variable(
            "EGRESS_HTTP_PROXY_SNI",
            "what to do with a CONNECT tunnel whose TLS name is another host's: `report`, `enforce` or `off`",
            "report",
            _sni,
        )
    )
    limits: HttpLimits = group(HttpLimits)
    sources: tuple[IPAddress, ...] = setting(OPTIONAL_SOURCE)

    @property
    def source(self) -> GuardedSource:
        """Where the rules come from, and the egress policy that applies to them."""
        return GuardedSource(self.rules, self.policy)


VARIABLES = variables(HttpProxySettings)


def read_http_proxy(environ: Mapping[str, str]) -> HttpProxySettings:
    """Read the environment of `http-proxy`.

    Raises:
        ConfigError: with everything that is missing or wrong.
    """
    environment = Environment(environ)
    settings = read(HttpProxySettings, environment)
    port, admin_port = environment.peek(PORT), environment.peek(common.ADMIN_PORT)
    if port is not None and port == admin_port:
        reason = "is the administration port too; choose another one, or set EGRESS_ADMIN_PORT to 0"
        environment.reject(Problem(PORT.name, None, str(port), reason))
    for local, _ in environment.peek(TRANSPARENT_PORTS) or ():
        taken = {port: PORT.name, admin_port: common.ADMIN_PORT.name}.get(local)
        if taken is not None:
            reason = f"port {local} is that of {taken} too; choose another one"
            environment.reject(Problem(TRANSPARENT_PORTS.name, None, str(local), reason))

    def complete() -> HttpProxySettings:
        of_pod = required(settings)
        of_worker = of_pod.limits.held_bytes // of_pod.proxy.workers
        return replace(of_pod, limits=replace(of_pod.limits, held_bytes=of_worker))

    return environment.finish(complete)


def rules_parser(environ: Mapping[str, str]) -> Callable[[str, str], AccessList]:
    """Return the parser of allow/deny lists for this environment; settings with errors are left out."""
    return functools.partial(acl.parse, sources=known_sources(environ))
