"""`python -m egress_router.lab.demo`: the demo, in a new user namespace where it may create no others."""

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
    """Show every mode; return 0 if everything was as promised, else 3.

    Raises:
        RefusedError: this machine does not let this user create network namespaces.
    """
    if not is_allowed():
        reenter("egress_router.lab.demo")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(network.__doc__ or "")
    is_right = True
    for scene in SCENES:
        with Laboratory() as lab:
            is_right = scene(lab) and is_right
    print("\nEverything was as promised." if is_right else "\nSomething was not as promised.")
    return 0 if is_right else 3


if __name__ == "__main__":
    try:
        sys.exit(run())
    except RefusedError as refused:
        print(refused, file=sys.stderr)
        sys.exit(3)
    except KeyboardInterrupt:
        sys.exit(130)
