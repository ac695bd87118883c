"""What a real process would print to stdout and stderr, kept for the tests to read."""

from __future__ import annotations

import json
import logging


class Lines(logging.Handler):
    """Keeps events and records as JSON, as they are written."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(json.loads(self.format(record)))

    def events(self, name: str) -> list[dict[str, object]]:
        return [line for line in self.seen if line["event"] == name]
