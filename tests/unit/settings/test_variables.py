from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from egress_router.errors import ConfigError
from egress_router.settings.common import usable_cpus
from egress_router.settings.dns_proxy import read_dns_proxy
from egress_router.settings.http_proxy import read_http_proxy

if TYPE_CHECKING:
    from pathlib import Path

RULES = {"EGRESS_HTTP_PROXY_DESTINATION": "*"}


def problems_of(environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_http_proxy(environ)
    return str(caught.value).splitlines()


def test_defaults_are_those_of_the_contract() -> None:
    settings = read_http_proxy(RULES)
    assert settings.port == 8080
    assert settings.connect_ports is None
    assert settings.report_only is False
    assert settings.limits.idle_seconds == 3600
    assert settings.proxy.runtime.admin_port == 9797
    assert settings.proxy.runtime.drain_seconds == 25
    assert settings.proxy.runtime.log_format == "text"
    assert settings.proxy.runtime.log_level == "info"
    assert settings.proxy.max_connections == 10_000
    assert settings.proxy.max_connections_per_client is None
    assert 1 <= settings.proxy.workers <= 8


def test_all_faults_are_said_at_once_with_variable_value_and_what_was_expected() -> None:
    assert problems_of(
        {
            "EGRESS_HTTP_PROXY_PORT": "http",
            "EGRESS_HTTP_PROXY_CONNECT_PORTS": "443,x",
            "EGRESS_LOG_FORMAT": "xml",
            "EGRESS_DRAIN_SECONDS": "nan",
            "EGRESS_WORKERS": "0",
        }
    ) == [
        "EGRESS_LOG_FORMAT: 'xml': expected one of text, json",
        "EGRESS_DRAIN_SECONDS: 'nan': expected a number of seconds above 0",
        "EGRESS_WORKERS: '0': expected a whole number from 1 to 64",
        "EGRESS_HTTP_PROXY_DESTINATION: is not set, and neither is EGRESS_HTTP_PROXY_DESTINATION_FILE (allow/deny list)",
        "EGRESS_HTTP_PROXY_PORT: 'http': expected a whole number from 1 to 65535",
        "EGRESS_HTTP_PROXY_CONNECT_PORTS: '443,x': invalid port 'x' (a number from 1 to 65535);"
        " expected ports separated by commas, or `any`",
    ]


@pytest.mark.parametrize("digits", ["65536", "0" * 20 + "65536", "0" * 30, "-1", "+1", "1_0", "\u0661"])
def test_a_port_that_is_none_is_not_taken(digits: str) -> None:
    (error,) = problems_of({**RULES, "EGRESS_ADMIN_PORT": digits})
    assert error.endswith("expected a whole number from 0 to 65535")


def test_every_wrong_part_of_a_list_is_said() -> None:
    (error,) = problems_of({**RULES, "EGRESS_HTTP_PROXY_CONNECT_PORTS": "x,443,0"})
    assert "invalid port 'x'" in error
    assert "invalid port '0'" in error


def test_the_proxy_and_the_administration_need_a_port_each() -> None:
    (error,) = problems_of({**RULES, "EGRESS_ADMIN_PORT": "8080"})
    assert error.startswith("EGRESS_HTTP_PROXY_PORT: '8080': is the administration port too")
    environ = {**RULES, "EGRESS_HTTP_PROXY_PORT": "3128", "EGRESS_ADMIN_PORT": "8080"}
    assert read_http_proxy(environ).port == 3128


def test_the_proxies_take_no_interface_that_setup_does_not() -> None:
    (error,) = problems_of({**RULES, "EGRESS_INTERFACE": "e*"})
    assert error.startswith("EGRESS_INTERFACE: 'e*': expected the name of an interface")


def test_variable_and_file_together_are_an_error() -> None:
    assert problems_of({**RULES, "EGRESS_HTTP_PROXY_DESTINATION_FILE": "/rules"}) == [
        "EGRESS_HTTP_PROXY_DESTINATION: is set together with EGRESS_HTTP_PROXY_DESTINATION_FILE; give one of the two"
    ]


def test_an_empty_value_means_the_default() -> None:
    assert read_http_proxy({**RULES, "EGRESS_HTTP_PROXY_PORT": ""}).port == 8080


@pytest.mark.parametrize("value", ["1", "0", "no", " "])
def test_the_original_switches_are_on_with_any_non_empty_value(value: str) -> None:
    settings = read_dns_proxy({"EGRESS_DNS_PROXY_DESTINATION": "80 1.2.3.4", "EGRESS_DNS_PROXY_DEBUG": value})
    assert settings.debug is True


def test_a_file_is_read_when_asked_and_errors_name_it(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    source = read_http_proxy({"EGRESS_HTTP_PROXY_DESTINATION_FILE": str(path)}).rules
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        source.read()
    path.write_text("*\n")
    assert source.read() == "*\n"
    assert source.name == f"EGRESS_HTTP_PROXY_DESTINATION_FILE {path}"
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        source.read()


@pytest.mark.parametrize(
    ("quota", "most"), [("max 100000", None), ("50000 100000", 1), ("150000 100000", 2), ("garbage", None)]
)
def test_the_cgroup_quota_bounds_the_workers(tmp_path: Path, quota: str, most: int | None) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    everything = usable_cpus(tmp_path / "none")
    assert usable_cpus(tmp_path) == (everything if most is None else min(everything, most))


def test_the_quota_of_cgroup_v1_counts_too(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cpus(tmp_path) == 1
