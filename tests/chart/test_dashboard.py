"""Queries of the dashboard and of the alerts, by promtool, over what real routers of all modes say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.chart.test_alerts import MODES, rules

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "charts" / "egress-router" / "dashboards" / "egress-router.json"
NAMESPACE, SERVICE = "egress", "db-egress-router-admin"


@pytest.fixture(scope="module")
def expositions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("expositions")
    command = [str(ROOT / "scripts" / "in-namespaces"), sys.executable, "-m", "tests.chart.expositions"]
    done = subprocess.run(
        [*command, str(folder)], cwd=ROOT, check=False, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.prom")}


def series(mode: str, text: str) -> Iterator[dict[str, str]]:
    """Yield the samples as series of promtool: counters grow by what they have, each minute."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {**sample.labels, "namespace": NAMESPACE, "service": SERVICE, "pod": mode}
            written = ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
            grows = family.type in {"counter", "histogram"}
            values = f"0+{sample.value:f}x30" if grows else f"{sample.value:f}x30"
            yield {"series": f"{sample.name}{{{written}}}", "values": values}


def silent(queries: list[str], expositions: dict[str, str], folder: Path) -> set[str]:
    """Return the queries that have no result."""
    given = [each for mode, text in expositions.items() for each in series(mode, text)]
    nothing = [{"expr": query, "eval_time": "20m", "exp_samples": []} for query in queries]
    test = {"interval": "1m", "input_series": given, "promql_expr_test": nothing}
    (folder / "test.yaml").write_text(
        yaml.safe_dump({"evaluation_interval": "1m", "tests": [test]}, width=10_000)
    )
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yaml"], cwd=folder, check=False, capture_output=True, text=True
    )
    said = done.stdout + done.stderr
    answered = set(re.findall(r'expr: (".*?"|`.*?`), time: 20m', said))
    assert "error" not in said.replace("server_failure", ""), said
    return {query for query in queries if json.dumps(query) not in answered and f"`{query}`" not in answered}


def dashboard() -> list[str]:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [
        target["expr"].replace("$namespace", NAMESPACE).replace("$service", SERVICE)
        for panel in panels
        for target in panel["targets"]
    ]


def test_every_query_of_the_dashboard_has_a_result(expositions: dict[str, str], tmp_path: Path) -> None:
    assert sorted(expositions) == sorted(MODES)
    assert silent(dashboard(), expositions, tmp_path) == set()


def test_a_query_for_what_nobody_says_is_found(expositions: dict[str, str], tmp_path: Path) -> None:
    wrong = ['egress_router_ready{namespace="other"}', "egress_router_rule_hits_total"]
    assert silent([*wrong, "egress_router_ready"], expositions, tmp_path) == set(wrong)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_every_selector_of_the_alerts_of_a_mode_finds_something_in_it(
    mode: str, expositions: dict[str, str], tmp_path: Path
) -> None:
    # In the laboratory the pair runs in redirect mode.
    found = rules(mode, standby=mode == "redirect")
    alerts = [rule["expr"] for group in found["groups"] for rule in group["rules"]]
    selectors = {
        re.sub(r"\s+", " ", each) for each in re.findall(r"egress_router_\w+\{[^}]*\}", "\n".join(alerts))
    }
    assert len(selectors) > 5
    assert silent(sorted(selectors), {mode: expositions[mode]}, tmp_path) == set()


PROXIES = {"http-proxy", "dns-proxy"}
WORDS = {"all": {*PROXIES, "redirect"}, "proxies": PROXIES, **{mode: {mode} for mode in MODES}}


def table() -> dict[str, tuple[set[str], set[str]]]:
    """Return labels and modes of each metric, as docs/operating.md has them."""
    text = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8").partition("## Metrics")[2]
    found = {}
    for names, modes in re.findall(r"^\| (`.*?`) \| ([\w, `-]+?) \| ", text, re.MULTILINE):
        words = set(re.findall(r"[\w-]+", modes.replace("with `EGRESS_STANDBY`", ""))) - {"and"}
        for name, labels in re.findall(r"`([a-z_]+)(?:\{([a-z,]+)\})?`", names):
            found[name] = (
                set(filter(None, labels.split(","))),
                set().union(*(WORDS[each] for each in words)),
            )
    return found


def test_the_table_of_metrics_is_what_real_routers_say(expositions: dict[str, str]) -> None:
    documented, wrong = table(), []
    for mode, text in expositions.items():
        for family in text_string_to_metric_families(text):
            name = family.name.removeprefix("egress_router_") + ("_total" if family.type == "counter" else "")
            labels, modes = documented.get(name, (set(), set()))
            if mode not in modes:
                wrong.append(f"{name} is not of mode {mode}")
            elif any(sample.labels.keys() - {"le"} != labels for sample in family.samples):
                wrong.append(f"{name} has other labels in mode {mode}")
    assert not wrong, "docs/operating.md says so"
