"""The alerts, by promtool: silent on ordinary days, and not silent on bad ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.chart.charting import DNS, EVERYTHING, HTTP, REDIRECT, rendered

if TYPE_CHECKING:
    from typing import Any

ROOT = Path(__file__).parents[2]
OF = 'namespace="egress",service="db-egress-router-admin",pod="p"'
MODES = {"http-proxy": HTTP, "dns-proxy": DNS, "redirect": REDIRECT}


def rules(mode: str, *, standby: bool = False) -> dict[str, Any]:
    values = {**MODES[mode], **EVERYTHING, "standby": {"enabled": standby}}
    (found,) = (each for each in rendered(values) if each["kind"] == "PrometheusRule")
    spec: dict[str, Any] = json.loads(json.dumps(found))["spec"]
    return spec


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    more = "".join(f',{key}="{value}"' for key, value in labels.items())
    return {"series": f"egress_router_{name}{{{OF}{more}}}", "values": values}


# What every router has on a day without trouble.
WELL = (
    series("build_info", "1x60", mode="m"),
    series("ready", "1x60"),
    series("rules_valid", "1x60"),
    series("gateway_up", "1x60", gateway="192.168.12.1"),
)
HTTP_TRAFFIC = series("requests_total", "0+600x60", verdict="allowed", reason="rule")
CONNECTED = series("connections_total", "0+600x60", result="connected")


def firing(
    mode: str, given: tuple[dict[str, str], ...], tmp_path: Path, without: str = "", *, standby: bool = False
) -> set[str]:
    """Return the alerts that fire after half an hour of these series, besides those of a good day."""
    if shutil.which("promtool") is None:
        pytest.fail("these tests need promtool: install the package prometheus", pytrace=False)
    spec = rules(mode, standby=standby)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(spec))
    well = [each for each in WELL if not without or not each["series"].startswith(f"egress_router_{without}")]
    names = [rule["alert"] for group in spec["groups"] for rule in group["rules"]]
    expected = [{"alertname": name, "eval_time": "30m", "exp_alerts": []} for name in names]
    test = {"interval": "1m", "input_series": [*well, *given], "alert_rule_test": expected}
    text = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(text))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yaml"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    said = done.stdout + done.stderr
    found = set(re.findall(r"alertname: ?\"?(\w+)", said))
    assert (done.returncode == 0) == (not found), said
    return found


@pytest.mark.parametrize("standby", [False, True])
@pytest.mark.parametrize("mode", sorted(MODES))
def test_every_alert_has_a_section_in_the_runbook(mode: str, standby: bool) -> None:
    text = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"^## (\w+)$", text, re.MULTILINE))
    for group in rules(mode, standby=standby)["groups"]:
        for rule in group["rules"]:
            assert rule["alert"] in headings
            assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"


@pytest.mark.parametrize(
    ("mode", "given"),
    [
        # Keep-alive connections end; each minute one name is wrong and one connection fails; others are denied.
        (
            "http-proxy",
            (
                HTTP_TRAFFIC,
                series("idle_closed_total", "0+100x60", limit="keepalive_seconds"),
                series("requests_total", "0+1x60", verdict="undecided", reason="no_such_name"),
                series("requests_total", "0+500x60", verdict="denied", reason="no_rule"),
                series("upstream_failures_total", "0+1x60", reason="refused"),
                series("limit_hits_total", "0+1x60", limit="connect_seconds"),
                series("limit_hits_total", "0x60", limit="connections"),
                series("worker_restarts_total", "0 0 1 1 1x60"),
                series("source_ports_in_use", "20000x60", source="192.168.12.99"),
                series("source_ports_limit", "28232x60"),
                series("rule_connections_total", "0+600x60", rule="*"),
                series("rule_failures_total", "0+100x60", rule="*"),
                # A line that nearly nobody uses, and which fails.
                series("rule_connections_total", "0+1x60", rule="old.example"),
                series("rule_failures_total", "0+1x60", rule="old.example"),
            ),
        ),
        # A quiet router of which the only connection in a while fails.
        ("http-proxy", (series("upstream_failures_total", "0+1x60", reason="timeout"),)),
        (
            "dns-proxy",
            (
                CONNECTED,
                series("connections_total", "0+1x60", result="refused"),
                series("upstream_up", "1x60", destination="db:443", address="203.0.113.9:443"),
                series("upstream_up", "0x60", destination="db:443", address="203.0.113.10:443"),
            ),
        ),
        (
            "redirect",
            (
                CONNECTED,
                series("connections_total", "0+1x60", result="refused"),
                # The policy denies, and somebody scans.
                series("connections_total", "0+500x60", result="policy"),
                series("connections_total", "0+500x60", result="no_rule"),
                # Together more ports than one address has, but each address is far from its limit.
                series("snat_ports_in_use", "30000x60", destination="d", source="192.168.12.99"),
                series("snat_ports_in_use", "30000x60", destination="d", source="192.168.12.100"),
                series("conntrack_entries", "20000x60"),
                series("conntrack_entries_limit", "262144x60"),
            ),
        ),
    ],
    ids=["http-proxy", "http-proxy, quiet", "dns-proxy", "redirect"],
)
def test_an_ordinary_day_is_silent(mode: str, given: tuple[dict[str, str], ...], tmp_path: Path) -> None:
    assert firing(mode, given, tmp_path) == set()


@pytest.mark.parametrize(
    ("mode", "alert", "given"),
    [
        ("http-proxy", "EgressRouterGatewaySilent", (series("gateway_up", "0x60", gateway="192.168.12.1"),)),
        ("dns-proxy", "EgressRouterGatewaySilent", (series("gateway_up", "0x60", gateway=""),)),
        ("redirect", "EgressRouterNotReady", (series("ready", "0x60"),)),
        ("redirect", "EgressRouterRulesRefused", (series("rules_valid", "0x60"),)),
        (
            "dns-proxy",
            "EgressRouterDestinationDown",
            (series("upstream_up", "0x60", destination="db", address=""),),
        ),
        (
            "redirect",
            "EgressRouterDestinationDown",
            (series("upstream_up", "0x60", destination="db", address="a"),),
        ),
        (
            "http-proxy",
            "EgressRouterDestinationsFail",
            (HTTP_TRAFFIC, series("upstream_failures_total", "0+100x60")),
        ),
        (
            "dns-proxy",
            "EgressRouterDestinationsFail",
            (CONNECTED, series("connections_total", "0+99x60", result="x")),
        ),
        (
            "redirect",
            "EgressRouterDestinationsFail",
            (CONNECTED, series("connections_total", "0+99x60", result="f")),
        ),
        ("http-proxy", "EgressRouterTurnsAway", (series("limit_hits_total", "0+1x60", limit="connections"),)),
        ("dns-proxy", "EgressRouterTurnsAway", (series("limit_hits_total", "0+1x60", limit="dns_lookups"),)),
        (
            "redirect",
            "EgressRouterSourcePortsRunOut",
            (series("snat_ports_in_use", "60000x60", destination="d", source="s"),),
        ),
        (
            "dns-proxy",
            "EgressRouterSourcePortsRunOut",
            (
                series("source_ports_in_use", "23000x60", source="192.168.12.99"),
                series("source_ports_in_use", "20000x60", source="192.168.12.100"),
                series("source_ports_limit", "28232x60"),
            ),
        ),
        # Five in a hundred of all, and nearly all of one rule.
        *(
            (
                mode,
                "EgressRouterRuleFails",
                (
                    HTTP_TRAFFIC,
                    CONNECTED,
                    series("upstream_failures_total", "0+30x60", reason="timeout"),
                    series("connections_total", "0+30x60", result="timeout"),
                    series("rule_connections_total", "0+32x60", rule="db.example"),
                    series("rule_failures_total", "0+30x60", rule="db.example"),
                    series("rule_connections_total", "0+600x60", rule="*"),
                    series("rule_failures_total", "0+1x60", rule="*"),
                ),
            )
            for mode in sorted(MODES)
        ),
        (
            "redirect",
            "EgressRouterConnectionTrackingFull",
            (series("conntrack_entries", "250000x60"), series("conntrack_entries_limit", "262144x60")),
        ),
        ("http-proxy", "EgressRouterWorkersDie", (series("worker_restarts_total", "0+1x60"),)),
        ("http-proxy", "EgressRouterNameServersFail", (series("dns_stale_answers_total", "0+1x60"),)),
    ],
)
def test_a_bad_day_is_not(mode: str, alert: str, given: tuple[dict[str, str], ...], tmp_path: Path) -> None:
    name = given[0]["series"].partition("{")[0].removeprefix("egress_router_")
    assert firing(mode, given, tmp_path, without=name) == {alert}


def test_a_router_without_metrics_is_gone(tmp_path: Path) -> None:
    assert firing("http-proxy", (), tmp_path, without="build_info") == {"EgressRouterGone"}


def of_pod(pod: str, given: tuple[dict[str, str], ...]) -> tuple[dict[str, str], ...]:
    return tuple({**each, "series": each["series"].replace('pod="p"', f'pod="{pod}"')} for each in given)


# The other pod, which stands by: it is not ready, and no gateway answers it behind its closed fence.
STANDING_BY = (
    *of_pod("q", (series("ready", "0x60"), series("gateway_up", "0x60", gateway="192.168.12.1"))),
    *of_pod("q", (series("standby_active", "0x60"), series("standby_peers", "1x60"))),
)
ROLLOUT = "0x25 1x40"


@pytest.mark.parametrize("mode", sorted(MODES))
def test_a_pair_is_silent_on_the_day_of_a_rollout(mode: str, tmp_path: Path) -> None:
    given = (
        *STANDING_BY,
        series("standby_peers", "1x24 0 0 1x40"),
        series("standby_take_overs_total", ROLLOUT),
        # Two containers of a pod tell of the same take-overs.
        *of_pod("q", (series("standby_take_overs_total", ROLLOUT, container="proxy"),)),
        *of_pod("q", (series("standby_take_overs_total", ROLLOUT, container="also"),)),
    )
    assert firing(mode, given, tmp_path, standby=True) == set()


@pytest.mark.parametrize("mode", sorted(MODES))
def test_a_pair_of_which_one_is_gone_has_no_peer(mode: str, tmp_path: Path) -> None:
    given = (series("standby_peers", "0x60"), series("standby_take_overs_total", "1x60"))
    assert firing(mode, given, tmp_path, standby=True) == {"EgressRouterNoPeer"}


@pytest.mark.parametrize("mode", sorted(MODES))
def test_a_pair_that_takes_over_from_each_other_flaps(mode: str, tmp_path: Path) -> None:
    turns = (series("standby_take_overs_total", "0+1x60"),)
    given = (*STANDING_BY, series("standby_peers", "1x60"), *turns, *of_pod("q", turns))
    assert firing(mode, given, tmp_path, standby=True) == {"EgressRouterFlapping"}


def test_a_gateway_that_no_pod_of_a_pair_hears_is_silent(tmp_path: Path) -> None:
    given = (
        *STANDING_BY,
        series("standby_peers", "1x60"),
        series("gateway_up", "0x60", gateway="192.168.12.1"),
    )
    found = firing("http-proxy", given, tmp_path, without="gateway_up", standby=True)
    assert found == {"EgressRouterGatewaySilent"}
