from __future__ import annotations

import ast
import io
import json
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from egress_router import log

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger("egress_router")
    before = (root.handlers[:], root.level, root.propagate)
    yield io.StringIO()
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])


def test_text_is_one_line_an_event_and_cannot_be_forged(stream: io.StringIO) -> None:
    log.configure(logging.StreamHandler(stream), "text", "info")
    log.get("setup").info("claimed", address="192.168.12.99", note='x"\n2026 error: forged', none=None)
    line = stream.getvalue()
    assert line.count("\n") == 1
    assert line.endswith('info setup: claimed address=192.168.12.99 note="x\\"\\n2026 error: forged"\n')


def test_json_is_one_object_an_event(stream: io.StringIO) -> None:
    log.configure(logging.StreamHandler(stream), "json", "info")
    log.get("setup").warning("slow", seconds=1.5)
    event = json.loads(stream.getvalue())
    assert {**event, "time": ""} == {
        "time": "", "level": "warning", "component": "setup", "event": "slow", "seconds": 1.5,
    }  # fmt: skip


def test_levels_below_the_configured_one_are_silent(stream: io.StringIO) -> None:
    log.configure(logging.StreamHandler(stream), "text", "warning")
    log.get("setup").info("nobody wants this")
    assert not stream.getvalue()


def test_our_own_fault_keeps_its_traceback_in_one_line(stream: io.StringIO) -> None:
    log.configure(logging.StreamHandler(stream), "text", "info")
    try:
        raise ZeroDivisionError("ours")
    except ZeroDivisionError as error:
        log.get("setup").exception("broke", error, step=3)
    line = stream.getvalue()
    assert line.startswith("2") and "ZeroDivisionError: ours" in line  # noqa: PT018


ROOT = Path(__file__).parents[2]
MANUAL = ROOT / "docs" / "operating.md"
LEVELS = {"debug", "info", "warning", "error", "exception"}
LOGS = {"_log", "_LOG", "_records", "_changes"}
# Calls whose sentence is written elsewhere; the manual has these sentences, too.
ELSEWHERE = {
    "kernel/routing.py": "what",  # `_step` gets it
    "records.py": "record.event",
    "service/rule_store.py": "f'rule {word}'",
    "service/tasks.py": "context['message']",  # asyncio's, and the poller's
}


def logged() -> Iterator[tuple[str, str | None, set[str]]]:
    """Yield each event of the source: file, sentence (None: not written there) and fields."""
    package = ROOT / "egress_router"
    for path in sorted(package.rglob("*.py")):
        name = str(path.relative_to(package))
        if name.startswith("lab/"):
            continue  # the demo's
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and is_event(node):
                fields = {each.arg for each in node.keywords if each.arg}
                if isinstance(node.func, ast.Attribute) and node.func.attr == "exception":
                    fields.add("traceback")
                sentence = node.args[0]
                if isinstance(sentence, ast.Constant):
                    yield name, str(sentence.value), fields
                elif ast.unparse(sentence) != ELSEWHERE.get(name):
                    yield name, None, fields


def is_event(call: ast.Call) -> bool:
    function = call.func
    if isinstance(function, ast.Name):
        return function.id == "_step"
    if not isinstance(function, ast.Attribute) or function.attr not in LEVELS:
        return False
    log_of = function.value
    return (log_of.id if isinstance(log_of, ast.Name) else getattr(log_of, "attr", "")) in LOGS


def test_the_manual_lists_every_event_with_its_fields() -> None:
    section = MANUAL.read_text().partition("\n## Logs\n")[2].partition("\n## ")[0]
    rows = [row.split(" | ") for row in section.splitlines() if row.startswith("| ")]
    known = [
        (set(re.findall("`(.*?)`", row[1])), set(re.findall("`(.*?)`", row[2])))
        for row in rows
        if len(row) > 2
    ]
    found = list(logged())
    assert len(found) > 40, "the walk over the source misses events"
    for file, sentence, fields in found:
        place = f"egress_router/{file}"
        assert sentence is not None, (
            f"{place}: write the event's sentence at the call, its values into fields"
        )
        assert any(sentence in sentences and fields <= named for sentences, named in known), (
            f"{place}: add to the table under Logs in docs/operating.md: "
            f"| component | `{sentence}` | {', '.join(f'`{each}`' for each in sorted(fields)) or 'none'} |"
        )
