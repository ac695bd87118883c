"""Network tests run in real namespaces: as root, or inside a user namespace of their own.

Where a machine allows neither, every one of them fails with the reason; a skipped check is not a check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from egress_router.lab.host import is_allowed
from egress_router.lab.network import Laboratory

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def _may_build_namespaces() -> None:
    if not is_allowed():
        pytest.fail(
            "these tests build network namespaces: run them as root, or with scripts/in-namespaces",
            pytrace=False,
        )


@pytest.fixture
def lab() -> Iterator[Laboratory]:
    with Laboratory() as built:
        yield built
