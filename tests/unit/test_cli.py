from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from egress_router.settings.catalogue import VARIABLES, names
from egress_router.settings.variables import RulesVariable
from tests.unit.command_line import outcome

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", sorted(VARIABLES))
def test_help_lists_every_variable_of_the_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(command, "--help") == 0
    text = capsys.readouterr().out
    for variable in VARIABLES[command]:
        assert variable.name in text
        if isinstance(variable, RulesVariable):
            assert variable.file_name in text
        else:
            assert variable.meaning.split()[0] in text


def test_help_of_the_program_lists_every_variable(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome("--help") == 0
    text = capsys.readouterr().out
    assert all(variable.name in text for group in VARIABLES.values() for variable in group)


def test_help_says_what_no_value_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome("setup", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "separated by commas (default: none)" in text
    assert "say every step and every rule (default: off)" in text
    assert "required in modes init and legacy EGRESS_POLICY" in text


def test_every_variable_that_the_package_names_is_described() -> None:
    described = {variable.name for group in VARIABLES.values() for variable in group}
    described |= {f"{name}_FILE" for name in described}
    for path in (ROOT / "egress_router").rglob("*.py"):
        if path.is_relative_to(ROOT / "egress_router/kernel"):
            continue  # it reads no environment; its chains have such names, too
        for name in set(re.findall(r"\bEGRESS_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8"))):
            assert name in described, f"{path.name} names {name}, which no --help describes"


def test_every_variable_is_documented_with_its_default() -> None:
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    for variable in {variable.name: variable for group in VARIABLES.values() for variable in group}.values():
        row = re.search(rf"^\| `{variable.name}`.*$", text, re.MULTILINE)
        assert row is not None, f"docs/operating.md does not know {variable.name}"
        assert variable.meaning in row[0]
        if not isinstance(variable, RulesVariable) and variable.default:
            assert row[0].endswith(f"| `{variable.default}` |")
    known = {name for group in VARIABLES.values() for name in names(group)}
    assert set(re.findall(r"^\| `(EGRESS_\w+)`", text, re.MULTILINE)) <= known, "a row that nothing reads"


def test_a_wrong_command_line_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome("sutep") == 2
    assert outcome() == 2
    assert outcome("check", "redirect") == 2
    assert "FILE" in capsys.readouterr().err


def test_help_of_check_names_kinds_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome("check", "--help") == 0
    text = capsys.readouterr().out
    assert "[{redirect,http-proxy,dns-proxy}] FILE" in text
    assert "egress-router check redirect destinations.txt" in text


def test_setup_lists_no_variable_that_it_has_no_use_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome("setup", "--help") == 0
    shown = capsys.readouterr().out
    assert "EGRESS_DRAIN_SECONDS" in shown
    assert "EGRESS_WORKERS" not in shown
    for proxy in ("http-proxy", "dns-proxy"):
        assert outcome(proxy, "--help") == 0
        assert "EGRESS_DRAIN_SECONDS" in capsys.readouterr().out


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == version


def test_explain_exits_as_asked_and_answers_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, policy = tmp_path / "list", tmp_path / "policy.json"
    path.write_text("192.0.2.0/24\nb.example\n10.0.0.0/8:1\n")
    policy.write_text(
        '{"kind": "EgressNetworkPolicy", "apiVersion": "v1", "spec": {"egress": ['
        '{"type": "Deny", "to": {"cidrSelector": "192.0.2.128/25"}}]}}'
    )
    asked = ["explain", str(path)]
    assert outcome(*asked, "192.0.2.200", "--exit-code") == 0
    assert outcome(*asked, "198.51.100.1") == 0
    assert outcome(*asked, "198.51.100.1", "--exit-code") == 1
    assert outcome(*asked, "a.example:1", "--exit-code") == 1  # undecided without its addresses
    assert outcome(*asked, "192.0.2.200", "--exit-code", "--policy", str(policy)) == 1
    capsys.readouterr()
    assert outcome(*asked, "192.0.2.200", "--policy", str(policy), "--output=json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["target"], found["outcome"], found["addresses"]) == ("192.0.2.200:443", "denied", [])
    assert found["explanation"][0] == (
        "192.0.2.200:443 is denied: policy entry 1 (Deny 192.0.2.128/25) denies it"
    )


def test_errors_of_all_tools_begin_with_file_and_line_and_are_json_where_it_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules, policy, text = tmp_path / "list", tmp_path / "policy.yaml", tmp_path / "text"
    right = tmp_path / "right"
    right.write_text("a.example\n")
    rules.write_text("a.example\nb c\n")
    policy.write_text("kind: EgressNetworkPolicy\nspec: {egress: []}\n")
    text.write_text("a: b\nx\n")
    nobody = "http://127.0.0.1:1"
    for words, status, place in (
        (["explain", str(rules), "a.example"], 1, f"{rules}:2: 'b c': expected NAME"),
        (["explain", str(right), "a:b:c"], 1, "target: 'a:b:c': "),
        (["explain", str(tmp_path / "none"), "a.example"], 1, f"{tmp_path}/none: cannot be read"),
        (["explain", str(right), "a.example", "--policy", str(policy)], 1, f"{policy}:1: "),
        (["status", "--url", nobody], 3, f"cannot ask {nobody}/status: "),
        (["check", str(text)], 1, f"{text}:3: is not YAML: "),
    ):
        assert outcome(*words) == status
        said = capsys.readouterr()
        assert (said.out, said.err.startswith(place)) == ("", True), said.err
        assert outcome(*words, "--output=json") == status
        said = capsys.readouterr()
        assert said.err.startswith(place)
        error = json.loads(said.out)["errors"][0]
        assert set(error) == {"file", "source", "line", "text", "message"}
        assert error["message"] in said.err
    assert outcome("convert", str(text)) == 1
    assert capsys.readouterr().err.startswith(f"{text}:3: is not YAML: ")


def test_a_converted_router_passes_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "tests/unit/manifests/openshift-egress-router.yaml"
    assert outcome("check", str(path)) == 0
    assert "EGRESS_DESTINATION       8080 tcp 203.0.113.26 80" in capsys.readouterr().out
    assert outcome("convert", str(path), "--to", "manifest") == 0
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(capsys.readouterr().out)
    assert outcome("check", "--strict", str(manifest)) == 0
    assert capsys.readouterr().out.count("setup") == 3  # two containers run it, and one is named so
    assert outcome("convert", str(manifest)) == 1
    assert "holds no EgressRouter of OpenShift 4" in capsys.readouterr().err


@pytest.mark.parametrize("service", ["setup", "http-proxy", "dns-proxy"])
def test_a_tool_may_follow_the_service_that_an_image_names(service: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "egress_router", service, "check", "redirect", "-"],
        input=b"80 tcp 203.0.113.25\n",
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"LOCAL PORT")
