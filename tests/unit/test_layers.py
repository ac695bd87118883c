"""The arrows between the rooms point one way, and the pure parts stay pure."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "egress_router"

# From the bottom to the top; a room may import rooms of its own floor and of the floors below it.
FLOORS = (
    {"errors", "log", "metrics", "clock", "terminal"},
    {"grammar"},
    {"manifests"},
    {"settings"},
    {"relay", "names", "kernel", "tls"},
    {"upstreams"},
    {"service"},
    {"admin"},
    {"http_proxy", "dns_proxy", "setup", "redirect", "status", "check", "explain"},
    {"lab"},
    {"cli", "__main__"},
)

IO_MODULES = {"asyncio", "socket", "subprocess", "os", "pyroute2", "select", "ssl", "threading"}
PURE = {
    "kernel/nat/elements.py": "the way from some lines to others is tested as data, without a kernel",
    "kernel/nat/rules.py": "the rule set is golden-tested as text, without a kernel",
    "kernel/nat/source_ports.py": "the rule set is golden-tested as text, without a kernel",
    "grammar": "rules must be checkable anywhere, from a pod to a laptop",
    "manifests": "manifests must be checkable anywhere, and are hostile like every text",
    "http_proxy/policy.py": "a decision must be reproducible by `explain` without a network",
    "http_proxy/rule_index.py": "a decision must be reproducible by `explain` without a network",
    "http_proxy/head.py": "hostile bytes are fuzzed whole and byte by byte, without a socket",
    "http_proxy/body.py": "hostile bytes are fuzzed whole and byte by byte, without a socket",
    "http_proxy/trailers.py": "hostile bytes are fuzzed whole and byte by byte, without a socket",
    "http_proxy/target.py": "hostile bytes are fuzzed whole and byte by byte, without a socket",
    "http_proxy/forwarding.py": "what the next hop sees is tested as bytes, without a socket",
    "names/wire.py": "hostile answers are fuzzed whole, and their cost is counted in steps, not in time",
    "names/message.py": "what a reply means is tested as bytes, without a name server",
    "names/cache.py": "a day without name servers is simulated, not waited for",
    "tls": "hostile bytes are split at every byte and fuzzed, without a socket",
    "upstreams/pool.py": "fail-over order is tested as data, without time and without a network",
    "kernel/nat/plan.py": "the rule set is golden-tested as data, without a kernel",
}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def floor_of(room: str) -> int:
    return next(index for index, rooms in enumerate(FLOORS) if room in rooms)


def room_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    if path == ROOT / "__init__.py":
        return
    here = floor_of(room_of(path))
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "egress_router" and len(parts) > 1:
            room = parts[1]
            assert floor_of(room) <= here, f"{path.relative_to(ROOT)} imports {name}, which stands above it"


@pytest.mark.parametrize("place", sorted(PURE))
def test_pure_parts_do_no_io(place: str) -> None:
    start = ROOT / place
    paths = sorted(start.rglob("*.py")) if start.is_dir() else [start]
    assert paths
    for path in paths:
        banned = {name.split(".")[0] for name in imported(path)} & IO_MODULES
        assert not banned, f"{path.relative_to(ROOT)} imports {banned}, but {PURE[place]}"


def test_the_map_of_the_rooms_is_complete() -> None:
    text = (ROOT.parent / "docs" / "architecture.md").read_text()
    rooms = {path.name for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    missing = [room for room in sorted(rooms - {"__init__.py", "__main__.py"}) if room not in text]
    assert not missing
