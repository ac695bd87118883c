"""What the laboratory starts for a block ends with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from egress_router.lab.network import Laboratory


def staying(lab: Laboratory) -> AbstractContextManager[subprocess.Popen[str]]:
    return lab.staying({"EGRESS_DESTINATION": "80 tcp 203.0.113.25"})


def proxy(lab: Laboratory) -> AbstractContextManager[subprocess.Popen[str]]:
    return lab.proxy("http-proxy", {"EGRESS_HTTP_PROXY_DESTINATION": "*"}, 8080)


@pytest.mark.parametrize("start", [staying, proxy])
def test_a_router_ends_with_its_block_also_where_that_fails(
    lab: Laboratory, start: Callable[[Laboratory], AbstractContextManager[subprocess.Popen[str]]]
) -> None:
    with pytest.raises(ZeroDivisionError), start(lab) as process:
        raise ZeroDivisionError
    assert process.poll() is not None
