"""Records of rejected connections: who is denied, who is not, and how many were left out."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.grammar.redirect import parse
from egress_router.kernel.nat.rejections import Rejection
from egress_router.records import RecordLog
from egress_router.redirect.rejections import Rejections
from egress_router.redirect.traffic import RuleTable
from tests.manual_clock import ManualClock
from tests.record_schema import check_record

if TYPE_CHECKING:
    from tests.logged import Lines

TEXT = "80 tcp 203.0.113.25\n81 tcp db.example.com\n82 tcp 203.0.113.25 from 192.168.12.100\n"
TABLE = RuleTable(parse("R", TEXT), TEXT)
ENTRY = "policy entry 3: Deny 0.0.0.0/0"


def rejected(local_port: int, client_port: int = 40000, *, by_policy: bool = False) -> Rejection:
    address = ip_address("203.0.113.25" if by_policy else "10.128.0.20")
    return Rejection(
        by_policy, "tcp", ip_address("10.128.0.10"), client_port, local_port, address, local_port
    )


def made(*, everything: bool) -> Rejections:
    clock = ManualClock()
    records = RecordLog(everything=everything, clock=clock)
    found = Rejections(records, TABLE.line_of, lambda each: ENTRY if each.is_denied else None, clock)
    found.take(0, frozenset())
    return found


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (
            rejected(80, by_policy=True),
            {"verdict": "denied", "reason": "policy", "rule": ENTRY, "address": "203.0.113.25", "port": 80},
        ),
        (rejected(83), {"verdict": "denied", "reason": "no_rule"}),
        (
            rejected(81),
            {
                "verdict": "allowed",
                "reason": "no_address",
                "rule": "81 tcp db.example.com",
                "name": "db.example.com",
            },
        ),
        (
            rejected(82),
            {
                "verdict": "allowed",
                "reason": "source_not_held",
                "rule": "82 tcp 203.0.113.25 from 192.168.12.100",
            },
        ),
    ],
)
def test_a_record_says_who_was_rejected_and_why(
    records: Lines, one: Rejection, expected: dict[str, object]
) -> None:
    made(everything=True).take(1, frozenset({one}))
    (line,) = records.seen
    check_record(line)
    known = {"time", "level", "component", "id"}
    assert {name: value for name, value in line.items() if name not in known} == {
        "event": "connection",
        "client": "10.128.0.10",
        "client_port": 40000,
        "local_port": one.local_port,
        "protocol": "tcp",
        **expected,
    }


def test_denied_ones_are_written_unasked_and_the_others_are_not(records: Lines) -> None:
    found = made(everything=False)
    found.take(3, frozenset({rejected(81), rejected(82), rejected(83)}))
    assert [each["local_port"] for each in records.seen] == [83]
    shown = [{**each} for each in found.latest() if isinstance(each, dict)]
    assert [(each["client"], each["target"], each["reason"]) for each in shown] == [
        ("10.128.0.10", "tcp port 83", "no_rule")
    ]


def test_each_is_written_once_and_those_that_were_not_noted_are_counted(records: Lines) -> None:
    found = made(everything=False)
    found.take(1, frozenset({rejected(83)}))
    found.take(1, frozenset({rejected(83)}))
    assert len(records.seen) == 1
    found.take(12, frozenset({rejected(83), rejected(83, 40001)}))
    assert [each.get("suppressed") for each in records.seen] == [None, 10]
    # The kernel counts from zero again, as after a change of source addresses.
    found.take(1, frozenset({rejected(83, 40002)}))
    found.take(2, frozenset({rejected(83, 40002), rejected(83, 40003)}))
    assert [each.get("suppressed") for each in records.seen[2:]] == [None, None]


def test_what_an_earlier_process_wrote_down_is_not_written_again(records: Lines) -> None:
    clock = ManualClock()
    access_log = RecordLog(everything=False, clock=clock)
    found = Rejections(access_log, TABLE.line_of, lambda _: None, clock)
    found.take(100, frozenset({rejected(83)}))
    found.take(101, frozenset({rejected(83), rejected(84)}))
    assert [(each["local_port"], each.get("suppressed")) for each in records.seen] == [(84, None)]


def test_the_latest_are_few(records: Lines) -> None:
    found = made(everything=False)
    found.take(200, frozenset(rejected(83, port) for port in range(200)))
    assert len(found.latest()) == 50
    assert len(records.seen) == 20
