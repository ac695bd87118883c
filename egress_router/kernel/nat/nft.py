"""The `nft` program: the only place that starts it."""

from __future__ import annotations

import subprocess

from egress_router.errors import RefusedError

_TIMEOUT = 60  # seconds; 60,000 elements load in under one


def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run nft with `text` on its standard input to its end; an exit status other than 0 is returned.

    Raises:
        RefusedError: there is no such program, or it does not end.
    """
    try:
        return subprocess.run(  # noqa: S603 (from PATH: Debian has it in /usr/sbin, others elsewhere)
            ["nft", *arguments],  # noqa: S607
            input=text,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        raise RefusedError("cannot set NAT rules: no nft program", "install nftables") from None
    except subprocess.TimeoutExpired:
        raise RefusedError(f"nft did not finish within {_TIMEOUT} s", "look at the node's load") from None
