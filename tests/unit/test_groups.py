from __future__ import annotations

import pytest


@pytest.mark.xdist_group("named")
def test_tests_of_a_group_are_known_as_such(request: pytest.FixtureRequest) -> None:
    """pytest-xdist puts the group behind a test's id. Where that fails, each process builds each laboratory anew."""
    if request.config.getoption("loadgroup", default=False):
        assert request.node.nodeid.endswith("@named")
