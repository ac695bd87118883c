"""`python -m egress_router.lab.demo`: the demo, where it may build namespaces at once."""

from __future__ import annotations

import signal
import sys

from egress_router.errors import RefusedError
from egress_router.lab import network
from egress_router.lab.demo import dns_proxy, http_proxy, redirect
from egress_router.lab.host import is_allowed, reenter
from egress_router.lab.network import Laboratory

SCENES = (redirect.run, http_proxy.run, dns_proxy.run)


def run() -> int:
    """Show every mode; return 0 when all of it was as promised.

    Raises:
        RefusedError: this machine does not let this user build network namespaces.
    """
    if not is_allowed():
        reenter("egress_router.lab.demo")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(network.__doc__ or "")
    right = True
    for scene in SCENES:
        with Laboratory() as lab:
            right = scene(lab) and right
    print("\nEverything was as expected." if right else "\nSomething was not as expected.")
    return 0 if right else 3


if __name__ == "__main__":
    try:
        sys.exit(run())
    except RefusedError as refused:
        print(refused, file=sys.stderr)
        sys.exit(3)
    except KeyboardInterrupt:
        sys.exit(130)
