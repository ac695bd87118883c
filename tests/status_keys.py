"""Holds a status against what docs/operating.md says of its keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MANUAL = Path(__file__).parents[1] / "docs" / "operating.md"


def documented() -> frozenset[str]:
    """Return the words that the paragraph about `/status` names."""
    text = MANUAL.read_text(encoding="utf-8")
    return frozenset(re.findall(r"`(\w+)`", text.partition("Keys of `/status`")[2].partition("\n\n")[0]))


def check_status(status: Mapping[str, object]) -> None:
    """Assert that every key of a real status is documented."""
    assert status.keys() <= documented(), status.keys() - documented()
