from __future__ import annotations

import io
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from egress_router.cli import main
from egress_router.settings import dns_proxy, http_proxy, setup
from egress_router.settings.variables import RulesVariable

ROOT = Path(__file__).parents[2]
VARIABLES = {
    "setup": setup.VARIABLES,
    "http-proxy": http_proxy.VARIABLES,
    "dns-proxy": dns_proxy.VARIABLES,
}


def outcome(*argv: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    return int(str(caught.value.code or 0))


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


def test_every_variable_that_the_package_names_is_described() -> None:
    described = {variable.name for group in VARIABLES.values() for variable in group}
    described |= {f"{name}_FILE" for name in described}
    for path in (ROOT / "egress_router").rglob("*.py"):
        if path.is_relative_to(ROOT / "egress_router/kernel"):
            continue  # it reads no environment, and its chains have names of their own
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


def test_a_wrong_command_line_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome("sutep") == 2
    assert outcome() == 2
    assert outcome("check", "redirect") == 2
    assert "FILE" in capsys.readouterr().err


def test_check_says_all_errors_on_stderr_and_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("80 tcp 1.2.3.4\n\n80 sctpp 10.4.5.6\n0 tcp 1.2.3.4\n"))
    assert outcome("check", "redirect", "-") == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "line 3: '80 sctpp 10.4.5.6': unknown protocol 'sctpp' (tcp, udp or sctp)" in errors[0]


def test_a_missing_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome("check", "redirect", "/nowhere/rules") == 3
    assert capsys.readouterr().err == "cannot read /nowhere/rules: No such file or directory\n"


def test_a_configuration_error_of_a_service_needs_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "egress_router", "setup"], env={}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "EGRESS_SOURCE" in done.stderr
    assert "EGRESS_GATEWAY" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == version
