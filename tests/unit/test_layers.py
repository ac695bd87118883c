"""The arrows between the packages point one way, and the pure parts stay pure."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "egress_router"

# From the bottom to the top; a package may import packages of its own floor and of the floors below it.
FLOORS = (
    {"errors", "files", "log", "metrics", "clock", "terminal", "records"},
    {"grammar"},
    {"policy"},
    {"manifests"},
    {"settings"},
    {"net"},
    {"relay", "names", "kernel", "tls"},
    {"upstreams"},
    {"service"},
    {"admin"},
    {"http_proxy", "dns_proxy", "setup", "redirect", "standby", "status", "check", "explain", "convert"},
    {"lab"},
    {"completion"},
    {"commands"},
    {"cli", "__main__"},
    {"manual"},
)

IO_MODULES = {"asyncio", "socket", "subprocess", "os", "pyroute2", "select", "ssl", "threading"}
PURE = {
    "kernel/nat/elements.py": "the way from some lines to others is tested as data, without a kernel",
    "kernel/nat/counting.py": "the rule set is golden-tested as text, without a kernel",
    "kernel/nat/rules.py": "the rule set is golden-tested as text, without a kernel",
    "kernel/nat/updates.py": "the way from some lines to others is tested as data, without a kernel",
    "kernel/nat/iptables_rules.py": "the rule set is golden-tested as data, without a kernel",
    "kernel/nat/source_ports.py": "the rule set is golden-tested as text, without a kernel",
    "grammar": "rules must be checkable anywhere, from a pod to a laptop",
    "manifests": "manifests must be checkable anywhere, and are hostile like every text",
    "policy": "a decision must be reproducible by `explain` without a network",
    "http_proxy/http1": "hostile bytes are tested and fuzzed whole and byte by byte, without a socket or a loop",
    "names/wire.py": "hostile answers are fuzzed whole, and their cost is counted in steps, not in time",
    "names/message.py": "what a reply means is tested as bytes, without a name server",
    "names/cache.py": "a day without name servers is simulated, not waited for",
    "tls": "hostile bytes are split at every byte and fuzzed, without a socket",
    "redirect/policy.py": "what is denied, and when, is tested by parameters, without a clock and a kernel",
    "redirect/lines.py": "where a line leads is tested by parameters, without a clock and without a network",
    "upstreams/pool.py": "fail-over order is tested as data, without time and without a network",
    "standby/protocol": "a million schedules of loss, freezes and cuts are simulated, not waited for",
    "standby/conflict_detection.py": "what the shell remembers is tested by parameters, without a clock and a wire",
    "standby/transport/codec.py": "hostile bytes are tested without a socket",
    "kernel/nat/plan.py": "the rule set is golden-tested as data, without a kernel",
}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


@functools.cache
def imported(path: Path, *, at_run_time: bool = False) -> set[str]:
    """Return the modules that a file imports, those for types as well unless `at_run_time`."""
    tree = ast.parse(path.read_text())
    if at_run_time:
        tree.body = [node for node in tree.body if not is_for_types(node)]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def name_of(path: Path) -> str:
    parts = ("egress_router", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


FILES = {name_of(path): path for path in modules()}


def our_imports(name: str, *, at_run_time: bool) -> set[str]:
    """Return the modules of ours that a module imports; not the packages that they stand in."""
    found = imported(FILES[name], at_run_time=at_run_time) & FILES.keys()
    return {each for each in found if not any(other.startswith(f"{each}.") for other in found)} - {name}


def reached(name: str) -> set[str]:
    """Return a module and every one of ours that its import loads."""
    seen, left = set(), [name]
    while left:
        module = left.pop()
        if module not in seen:
            seen.add(module)
            left += our_imports(module, at_run_time=True)
    return seen


def floor_of(package: str) -> int:
    return next(index for index, packages in enumerate(FLOORS) if package in packages)


def package_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    if path == ROOT / "__init__.py":
        return
    here = floor_of(package_of(path))
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "egress_router" and len(parts) > 1:
            package = parts[1]
            assert floor_of(package) <= here, (
                f"{path.relative_to(ROOT)} imports {name}, which stands above it"
            )


@pytest.mark.parametrize("place", sorted(PURE))
def test_pure_parts_do_no_io(place: str) -> None:
    start = ROOT / place
    paths = sorted(start.rglob("*.py")) if start.is_dir() else [start]
    assert paths
    for path in paths:
        for module in sorted(reached(name_of(path))):
            used = {name.split(".")[0] for name in imported(FILES[module], at_run_time=True)}
            banned = used & IO_MODULES
            way = "" if module == name_of(path) else f" by way of {module}"
            assert not banned, f"{path.relative_to(ROOT)} imports {banned}{way}, but {PURE[place]}"


def calls_itself_pure(path: Path) -> bool:
    return re.search(r"\bPure\b", ast.get_docstring(ast.parse(path.read_text())) or "") is not None


def test_what_calls_itself_pure_does_no_io() -> None:
    """Neither do its imports; for a package, this holds for all of its modules."""
    found = {}
    for name, path in FILES.items():
        if calls_itself_pure(path):
            inside = [each for each in FILES if each == name or each.startswith(f"{name}.")]
            for module in sorted(
                set().union(*map(reached, inside if path.name == "__init__.py" else [name]))
            ):
                used = {each.split(".")[0] for each in imported(FILES[module], at_run_time=True)}
                if banned := used & IO_MODULES:
                    found[name] = f"{module} imports {sorted(banned)}"
    assert not found


def test_no_module_imports_one_that_imports_it_back() -> None:
    """Not for types either: what two files need from each other belongs in one of them, or in a third."""
    graph = {name: our_imports(name, at_run_time=False) for name in FILES}
    # Remove again and again what imports nothing that is left: the circles remain.
    while free := {name for name, targets in graph.items() if not targets & graph.keys()}:
        for name in free:
            del graph[name]
    circles = {name for name in graph if any(name in graph.get(each, ()) for each in reachable(graph, name))}
    assert not circles


def reachable(graph: dict[str, set[str]], name: str) -> set[str]:
    seen: set[str] = set()
    left = list(graph[name])
    while left:
        module = left.pop()
        if module in graph and module not in seen:
            seen.add(module)
            left += graph[module]
    return seen
