"""What the page shows of a busy day."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.unit.admin.views import FakeView


def fill(view: FakeView) -> None:
    """Give a view an hour of a busy day."""
    now = time.time()
    shape = [math.sin(index / 40) + math.sin(index / 7) / 4 + 1.4 for index in range(360)]
    view.answer["now"] = {"requests": 27.4, "sent_bytes": 52_110, "received_bytes": 1_204_311, "open": 143}
    view.answer["history"] = {
        "seconds": 10.0,
        "requests": [20 * each for each in shape],
        "sent_bytes": [40_000 * each for each in shape],
        "received_bytes": [900_000 * each + 50_000 * (index % 5) for index, each in enumerate(shape)],
        "open": [100 * each for each in shape],
        "failures": [0.2 if index % 90 < 6 else 0.0 for index in range(360)],
        "connect_seconds": [0.011 + 0.004 * each for each in shape],
    }
    view.answer["pod"] = "bank-egress-router-5f7c9d-x2k4q"
    view.answer["busiest"] = {
        "clients": [{"client": f"10.128.0.{40 + number}", "open": 61 - 17 * number} for number in range(3)],
        "destinations": [
            {"destination": "api.example.com:443", "open": 98},
            {"destination": "203.0.113.20:443", "open": 31},
            {"destination": "www.example.com:80", "open": 14},
        ],
        "all_clients": 3,
        "all_destinations": 3,
    }
    rules = (
        ("*.example.com", 48211),
        ("!*.internal.example.net", 12),
        ("203.0.113.0/24:443", 9120),
        ("*", 0),
    )
    view.answer["upstreams"] = []
    view.answer["rules"] = [
        {"line": line, "text": rule, "hits": hits} for line, (rule, hits) in enumerate(rules, start=2)
    ]
    view.answer["denied"] = [
        {
            "time": now - 61 * number,
            "client": f"10.128.0.{40 + number}",
            "target": target,
            "rule": rule,
            "reason": reason,
        }
        for number, (target, rule, reason) in enumerate(
            (
                ("vault.internal.example.net:443", "line 3: !*.internal.example.net", "rule"),
                ("169.254.169.254:80", None, "not_remote"),
                ("tracker.example.org:443", None, "no_rule"),
            )
        )
    ]
