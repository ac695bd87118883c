"""What holds for all unit tests."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from egress_router import log
from tests.logged import Lines

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def records() -> Iterator[Lines]:
    """The access log of this process, as a real one would print it."""
    lines = Lines()
    log.configure_records(lines, "json")
    yield lines
    logging.getLogger("egress_records").handlers.clear()
