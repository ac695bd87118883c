"""What the kernel refuses of rtnetlink's dumps."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from egress_router.errors import RefusedError
from egress_router.kernel.netlink import Netlink
from egress_router.kernel.pyroute2_loading import IPRoute, NetlinkError

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("dump", "read"),
    [
        ("get_links", Netlink.links),
        ("get_addr", lambda netlink: netlink.addresses(1)),
        ("get_routes", lambda netlink: netlink.routes(4)),
        ("get_rules", lambda netlink: netlink.has_mark_rule(4, 1, 1)),
        ("link", lambda netlink: netlink.link("lo")),
    ],
)
def test_a_dump_that_the_kernel_refuses_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, dump: str, read: Callable[[Netlink], object]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NetlinkError(errno.ENOMEM)

    monkeypatch.setattr(IPRoute, dump, refuse, raising=False)  # it makes its methods when they are asked for
    with Netlink() as netlink, pytest.raises(RefusedError, match="Cannot allocate memory"):
        read(netlink)
