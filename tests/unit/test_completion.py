from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from egress_router.manual import pages
from egress_router.settings.catalogue import VARIABLES
from tests.unit.command_line import outcome

if TYPE_CHECKING:
    from pathlib import Path


def completed(*words: str, folder: Path | None = None) -> set[str]:
    """What bash offers for the last of these words, in a folder."""
    script = subprocess.run(
        [sys.executable, "-m", "egress_router", "completion", "bash"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    line = " ".join(f"'{each}'" for each in ("egress-router", *words))
    asked = (
        f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _egress_router; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(
        ["bash", "-c", script + asked], capture_output=True, text=True, check=True, cwd=folder
    )
    return set(filter(None, done.stdout.split("\n")))


def test_bash_completes_files_where_one_is_expected(tmp_path: Path) -> None:
    (tmp_path / "my rules.txt").touch()
    assert "my rules.txt" in completed("check", "redirect", "", folder=tmp_path)
    assert completed("explain", "", folder=tmp_path) == {"my rules.txt"}
    assert completed("explain", "--policy", "m", folder=tmp_path) == {"my rules.txt"}
    assert completed("setup", "", folder=tmp_path) == set()


def test_bash_completes_commands_options_and_kinds() -> None:
    assert {"check", "explain", "setup"} <= completed("")
    assert completed("-") == {"--help", "--version"}
    assert completed("ex") == {"explain"}
    assert completed("explain", "--ex") == {"--exit-code"}
    assert {"redirect", "http-proxy"} <= completed("check", "")
    assert "--strict" in completed("check", "-")
    assert completed("check", "redi") == {"redirect"}
    assert completed("check", "--output", "") == {"text", "json"}
    assert completed("explain", "--sni", "") == set()
    assert "--worker" not in completed("http-proxy", "--")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_that_names_every_command(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome("completion", shell) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*VARIABLES, "check", "explain", "convert", "status"))


def test_manual_pages_hold_what_help_holds() -> None:
    found = pages()
    for command, group in VARIABLES.items():
        page = found[f"egress-router-{command}.1"]
        for variable in group:
            assert f"\\fB{variable.name}\\fR" in page
    assert "\\-\\-exit\\-code" in found["egress-router-explain.1"]
    assert "check redirect destinations.txt" in found["egress-router-check.1"]
    assert len(found) == 1 + len(VARIABLES) + 6
    for text in found.values():
        # A line that begins with `.` or `'` is a request of roff: there are only those that are meant as one.
        starts = {line.split()[0] for line in text.splitlines() if line.startswith((".", "'"))}
        assert starts <= {".TH", ".SH", ".TP", ".nf", ".fi"}
        assert text.isascii()
