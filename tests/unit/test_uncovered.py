"""The list of what no test runs only shrinks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "uncovered"


def report(path: Path, **functions: tuple[list[int], list[list[int]]]) -> Path:
    found = {
        name: {"missing_lines": lines, "missing_branches": arcs} for name, (lines, arcs) in functions.items()
    }
    path.write_text(json.dumps({"files": {"a.py": {"functions": found}}}))
    return path


def outcome(*words: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout


@pytest.fixture
def known(tmp_path: Path) -> Path:
    known = tmp_path / "list"
    begun = report(tmp_path / "begun", one=([1, 2], [[2, 3]]), two=([9], []), three=([], []))
    assert outcome(begun, "--begin", "--list", known) == (0, "")
    assert known.read_text().splitlines()[-2:] == ["a.py one 3", "a.py two 1"]
    return known


def test_what_is_known_passes_wherever_it_stands_now(tmp_path: Path, known: Path) -> None:
    moved = report(tmp_path / "now", one=([101, 102], [[102, 103]]), two=([], []))
    assert outcome(moved, "--list", known)[0] == 0


@pytest.mark.parametrize("lines", [[1, 2, 3], [1, 2, 3, 4]])
def test_more_of_a_function_or_a_new_one_fails(tmp_path: Path, known: Path, lines: list[int]) -> None:
    code, said = outcome(report(tmp_path / "now", one=(lines, [[2, 3]]), new=([7], [])), "--list", known)
    assert code == 1
    assert "a.py new: 1 lines and branches that no test takes, 0 are known" in said
    assert "a.py one: " in said


def test_an_update_takes_away_and_adds_nothing(tmp_path: Path, known: Path) -> None:
    code, _ = outcome(report(tmp_path / "now", one=([1], []), new=([7], [])), "--update", "--list", known)
    assert code == 1
    assert [line for line in known.read_text().splitlines() if line[0] != "#"] == ["a.py one 1"]


@pytest.mark.parametrize(("slack", "code"), [(1, 1), (2, 0)])
def test_some_slack_is_left_to_races(tmp_path: Path, known: Path, slack: int, code: int) -> None:
    now = report(tmp_path / "now", one=([1, 2, 3], [[2, 3]]), new=([7], []))
    found, said = outcome(now, "--slack", slack, "--list", known)
    assert found == code
    assert "a.py new: " in said
