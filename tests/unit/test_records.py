"""Records: the same fields in all modes, ids, and how many denied ones are written."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.records import MEANINGS, NAMES, Ids, Record, RecordLog
from tests.manual_clock import ManualClock
from tests.record_schema import SCHEMA, check_record

if TYPE_CHECKING:
    import pytest

    from tests.logged import Lines

MANUAL = Path(__file__).parents[2] / "docs" / "operating.md"


def made(verdict: str = "denied") -> Record:
    return Record(event="request", id="a-1", client="10.0.0.1", verdict=verdict, reason="no_rule")


def test_the_schema_and_the_manual_have_every_field() -> None:
    assert tuple(MEANINGS) == NAMES
    head = {name: SCHEMA["properties"][name] for name in ("time", "level", "component", "event")}
    assert SCHEMA["properties"] == {
        **head,
        **{name: {"type": kind, "description": meaning} for name, (kind, meaning) in MEANINGS.items()},
    }
    text = MANUAL.read_text(encoding="utf-8")
    for name, (_, meaning) in MEANINGS.items():
        assert f"| `{name}` | {meaning} |" in text
    assert head["event"]["enum"] == re.findall(
        r"^\| `(\w+)`: ", text.partition("Records go to stdout")[2], re.MULTILINE
    )


def test_a_record_has_what_is_known_and_nothing_else(records: Lines) -> None:
    RecordLog(everything=True).write(made("allowed"))
    (line,) = records.seen
    check_record(line)
    assert line.keys() == {"time", "level", "component", "event", "id", "client", "verdict", "reason"}


def test_denied_ones_are_written_unasked_but_no_flood_of_them(records: Lines) -> None:
    clock = ManualClock()
    written = RecordLog(everything=False, clock=clock)
    written.write(made("allowed"))
    assert records.seen == []
    for _ in range(1000):
        written.write(made())
    assert len(records.seen) == 20
    clock.advance(1)
    for _ in range(6):
        written.write(made())
    assert len(records.seen) == 25
    assert [each.get("suppressed") for each in records.seen[-5:]] == [980, None, None, None, None]
    for each in records.seen:
        check_record(each)


def test_who_asks_for_all_gets_all(records: Lines) -> None:
    written = RecordLog(everything=True, clock=ManualClock())
    for _ in range(1000):
        written.write(made())
    assert len(records.seen) == 1000


def test_no_two_processes_have_the_same_ids() -> None:
    one, other = Ids(), Ids()
    assert len({one.next(), one.next(), other.next(), other.of(7)}) == 4
    assert one.of(7) == one.of(7)


def test_text_has_the_same_names(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure_records(logging.StreamHandler(), "text")
    RecordLog(everything=True).write(made())
    assert "request id=a-1 client=10.0.0.1 verdict=denied reason=no_rule" in capsys.readouterr().err
    logging.getLogger("egress_records").handlers.clear()
