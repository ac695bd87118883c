"""Settings that all long-running modes share."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from egress_router.settings.chart import CHART_VALUES
from egress_router.settings.memory import held_bytes
from egress_router.settings.table import group, setting
from egress_router.settings.variables import Variable, flag, one_of, seconds, whole

if TYPE_CHECKING:
    from egress_router.log import LogFormat

LogLevel = Literal["debug", "info", "warning", "error"]
LOG_FORMATS: tuple[LogFormat, ...] = ("text", "json")
LOG_LEVELS: tuple[LogLevel, ...] = ("debug", "info", "warning", "error")
_MAX_WORKERS = 8
# Of the names that the kernel accepts (IFNAMSIZ is 16 with the final NUL), only those without a special
# meaning anywhere: in nft `*` matches other interfaces and a quotation mark ends the name, `%d` is a counter,
# `:` an alias, and `lo`, `all` and `default` cannot name an egress interface.
_INTERFACE_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,15}")
_NO_INTERFACE = {".", "..", "lo", "all", "default"}


def usable_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many CPUs this container may use: its affinity mask and its cgroup quota, rounded up.

    Source: cpu.max of cgroup v2, cpu.cfs_quota_us of v1 (Linux Documentation/admin-guide/cgroup-v2).
    """
    mask = len(os.sched_getaffinity(0))
    quota = _quota_v2(cgroup / "cpu.max") or _quota_v1(cgroup / "cpu")
    return mask if quota is None else max(1, min(mask, math.ceil(quota)))


def _quota_v2(path: Path) -> float | None:
    try:
        quota, period = path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None


def _workers(text: str) -> int:
    if text == "auto":
        return min(_MAX_WORKERS, usable_cpus())
    return whole(1, 64)(text)


def _limit(text: str) -> int | None:
    return None if text == "none" else whole(1, 10_000_000)(text)


def interface_name(text: str) -> str:
    """Read the name of a network interface."""
    if not _INTERFACE_NAME.fullmatch(text) or text in _NO_INTERFACE:
        raise ValueError("expected the name of an interface: 1 to 15 letters, digits, or _ . @ -; not lo")
    return text


ACCESS_LOG = Variable("EGRESS_ACCESS_LOG", "1: every connection or request is logged to stdout", "0", flag)
ADMIN_PORT = Variable(
    "EGRESS_ADMIN_PORT",
    "port of /healthz, /readyz, /metrics, /status and the page; 0 turns it off",
    "9797",
    whole(0, 65535),
)
INTERFACE = Variable(
    "EGRESS_INTERFACE", "name of the macvlan interface in the pod", "macvlan0", interface_name
)
DRAIN_SECONDS = Variable(
    "EGRESS_DRAIN_SECONDS",
    "how long connections in flight may go on after SIGTERM, or that changed rules or policy deny",
    "25",
    seconds,
)


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """Settings of every long-running mode; errors name the `chart_values`."""

    log_format: LogFormat = setting(
        Variable("EGRESS_LOG_FORMAT", "`text` or `json`", "text", one_of(*LOG_FORMATS))
    )
    log_level: LogLevel = setting(
        Variable(
            "EGRESS_LOG_LEVEL",
            "least level that is logged: `debug`, `info`, `warning`, `error`",
            "info",
            one_of(*LOG_LEVELS),
        )
    )
    admin_port: int = setting(ADMIN_PORT)
    chart_values: dict[str, str] = setting(CHART_VALUES)


@dataclass(frozen=True, slots=True)
class ServiceSettings(RuntimeSettings):
    """The same, and what a mode with connections of its own needs besides."""

    drain_seconds: float = setting(DRAIN_SECONDS)


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """Settings of both proxies."""

    runtime: ServiceSettings = group(ServiceSettings)
    access_log: bool = setting(ACCESS_LOG)
    interface: str = setting(INTERFACE)
    workers: int = setting(
        Variable(
            "EGRESS_WORKERS",
            "processes that share the ports; `auto`: the CPUs that the container may use, at most 8",
            "auto",
            _workers,
        )
    )
    max_connections: int = setting(
        Variable("EGRESS_MAX_CONNECTIONS", "connections of the pod in all", "10000", whole(1, 10_000_000))
    )
    relay_bytes: int = setting(
        Variable(
            "EGRESS_RELAY_BYTES",
            "bytes that all tunnels and forwarded connections together may hold for slow readers; "
            "`auto`: a quarter of the container's memory limit, 256 MiB where it has none",
            "auto",
            held_bytes,
        )
    )
    max_connections_per_client: int | None = setting(
        Variable(
            "EGRESS_MAX_CONNECTIONS_PER_CLIENT",
            "connections of one client address, or `none`",
            "none",
            _limit,
        )
    )
