"""docs/architecture.md shows the packages and files that there are."""

from __future__ import annotations

import re
from pathlib import Path

from tests.unit.test_layers import FLOORS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]


def block(number: int) -> list[str]:
    """Return one of the drawings among the packages: its indented lines."""
    blocks: list[str] = re.findall(r"(?:^ {4}.*\n)+", section("Packages"), re.MULTILINE)
    return blocks[number].splitlines()


def drawn() -> dict[str, str]:
    """Return every path of the tree, and what its line says."""
    found: dict[str, str] = {}
    folders: list[tuple[int, str]] = []
    for line in block(0):
        name, _, meaning = line.strip().partition(" ")
        depth = len(line) - len(line.lstrip())
        folders = [(above, folder) for above, folder in folders if above < depth]
        path = (folders[-1][1] if folders else "") + name
        found[path] = meaning.strip()
        if name.endswith("/"):
            folders.append((depth, path))
    return found


def test_everything_in_the_tree_is_there_and_has_its_line() -> None:
    for path, meaning in drawn().items():
        there = ROOT / path
        assert there.is_dir() if path.endswith("/") else there.is_file(), f"{path} is drawn and not there"
        assert meaning or path in {"egress_router/", "tests/"}, f"{path} is drawn without a word"


def test_every_package_and_kind_of_test_is_in_the_tree() -> None:
    for folder in ("egress_router", "tests"):
        packages = {
            f"{folder}/{path.name}/" if path.is_dir() else f"{folder}/{path.name}"
            for path in (ROOT / folder).iterdir()
            if (path.is_dir() and any(path.glob("*.py"))) or (folder != "tests" and path.suffix == ".py")
        }
        packages -= {f"{folder}/__init__.py", f"{folder}/__main__.py"}
        assert packages <= drawn().keys(), "draw them"


def test_the_rule_of_imports_is_the_one_that_is_held() -> None:
    lines = [set(line.strip().split(", ")) for line in block(1)]
    assert lines == [floor - {"__main__"} for floor in reversed(FLOORS)]


def test_every_module_on_the_ways_is_there() -> None:
    package = ROOT / "egress_router"
    names = {name for name in re.findall(r"`([a-z0-9_./]+)`", section("The ways through it")) if "." in name}
    assert names
    for name in names:
        if name.endswith(".py"):
            # Some are named by their place in the package that the text speaks of.
            there = (package / name).is_file() or any(package.glob(f"*/{name}"))
        else:
            path = package / name.replace(".", "/")
            there = path.is_dir() or path.with_suffix(".py").is_file()
        assert there, f"{name} is on a way and not there"
