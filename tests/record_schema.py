"""Holds a record against docs/records.schema.json, as far as that schema goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "records.schema.json").read_text())
_TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "integer": (int,), "number": (int, float)}


def check_record(record: Mapping[str, object]) -> None:
    """Assert that one line of JSON from stdout is a record."""
    known = SCHEMA["properties"]
    assert record.keys() <= known.keys(), f"unknown fields: {record.keys() - known.keys()}"
    assert set(SCHEMA["required"]) <= record.keys(), f"missing: {set(SCHEMA['required']) - record.keys()}"
    for name, value in record.items():
        assert isinstance(value, _TYPES[known[name]["type"]]), f"{name}={value!r}"
        assert value in known[name].get("enum", [value])
