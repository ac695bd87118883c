"""What the page shows of the log: the last warnings and errors, bounded, as text."""

from __future__ import annotations

import logging

import pytest

from egress_router import log
from egress_router.service.recent_errors import MAX_ERRORS, RecentErrors


def record(level: int = logging.ERROR, event: str = "it fails", **fields: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {
            "name": "egress_router.redirect",
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "msg": event,
        }
    )
    for name, value in fields.items():
        log.add_field(made, name, value)
    return made


def test_a_warning_is_shown_with_its_fields_and_an_event_is_not() -> None:
    recent = RecentErrors()
    recent.note(record(logging.INFO))
    recent.note(record(logging.WARNING, "a\nb", error="no such file"))
    (shown,) = recent.shown()
    assert isinstance(shown, dict)
    assert shown["level"] == "warning"
    assert shown["text"] == 'redirect: a\nb error="no such file"'


def test_a_fault_of_ours_says_what_it_was() -> None:
    recent = RecentErrors()
    made = record()
    try:
        raise ValueError("odd")
    except ValueError as error:
        made.exc_info = (ValueError, error, None)
    recent.note(made)
    assert "odd" in str(recent.shown())


def test_number_and_length_are_bounded_and_it_says_so() -> None:
    recent = RecentErrors()
    for number in range(100):
        recent.note(record(event=f"{number} " + "x" * 5000))
    shown = [each for each in recent.shown() if isinstance(each, dict)]
    assert len(shown) == MAX_ERRORS
    assert all(len(str(each["text"])) < 600 for each in shown)
    assert str(shown[-1]["text"]).startswith("redirect: 99 ")
    assert str(shown[-1]["text"]).endswith("(the rest is in the log)")


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR])
def test_what_is_logged_in_a_process_is_among_them(level: int) -> None:
    from egress_router.metrics import Number  # noqa: PLC0415
    from egress_router.service.output import Output  # noqa: PLC0415
    from egress_router.service.recent_errors import RECENT  # noqa: PLC0415

    output = Output(-1, Number())
    output.setFormatter(log.EventFormatter("text"))
    output.emit(record(level, f"only here {level}"))
    assert f"only here {level}" in str(RECENT.shown())
