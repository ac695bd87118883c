from __future__ import annotations

import io
import json
import logging
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
        "time": "", "level": "warning", "room": "setup", "event": "slow", "seconds": 1.5,
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
