"""Images under test come from `scripts/test-images`, which builds them into a storage folder of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.images.node import Images, Node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.images.node import Sandbox


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    storage = os.environ.get("EGRESS_TEST_STORAGE")
    if storage is None:
        pytest.fail("these tests need built images: run `make test-images`", pytrace=False)
    tag = "localhost/egress-{}:test"
    images = Images(*map(tag.format, ("router", "http-proxy", "dns-proxy", "pause")))
    with Node(Path(storage), images) as built:
        yield built


@pytest.fixture
def sandbox(node: Node) -> Iterator[Sandbox]:
    """A pod's network as it is with OKD's annotation: macvlan0 is there."""
    with node.sandbox(macvlan=True) as made:
        yield made


@pytest.fixture
def bare_sandbox(node: Node) -> Iterator[Sandbox]:
    """A pod's network with its first interface only."""
    with node.sandbox(macvlan=False) as made:
        yield made
