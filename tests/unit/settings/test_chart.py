from __future__ import annotations

import os
import subprocess
import sys

from egress_router.settings.chart import chart_values, with_chart_values


def test_an_error_names_the_charts_value_beside_the_variable_once_a_line() -> None:
    values = chart_values({"EGRESS_CHART_VALUES": "EGRESS_SOURCE=source, EGRESS_CLAIM_TIMEOUT=setup.claim"})
    text = "EGRESS_SOURCE: EGRESS_SOURCE, EGRESS_SOURCE_X, EGRESS_GATEWAY\nEGRESS_SOURCE"
    assert with_chart_values(text, values) == (
        "EGRESS_SOURCE (chart value source): EGRESS_SOURCE, EGRESS_SOURCE_X, EGRESS_GATEWAY\n"
        "EGRESS_SOURCE (chart value source)"
    )


def test_what_is_no_list_of_pairs_changes_no_message() -> None:
    for wrong in ("x", "EGRESS_SOURCE", "EGRESS_SOURCE=", "=source", ","):
        assert chart_values({"EGRESS_CHART_VALUES": wrong}) == {}


def test_the_program_prints_the_charts_values() -> None:
    environment = {**os.environ, "EGRESS_CHART_VALUES": "EGRESS_SOURCE=source", "EGRESS_SOURCE": "no\x1b[2J"}
    command = [sys.executable, "-m", "egress_router", "setup"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "EGRESS_SOURCE (chart value source): " in done.stderr
    assert "\x1b" not in done.stderr
