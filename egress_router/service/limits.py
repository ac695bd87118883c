"""How many connections one worker may hold, as far as descriptors allow."""

from __future__ import annotations

import resource

from egress_router import log

_PER_CONNECTION = 2  # the client's socket and the upstream's
_RESERVE = 128  # log streams, the event loop, name servers, health checks, files of a reload
_log = log.get("service")


def raise_descriptors() -> int:
    """Raise the soft limit of open files to the hard one; return the limit that is in force then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # a container runtime may forbid even what the hard limit allows
        return soft
    return hard


def connections(wanted: int, workers: int, descriptors: int, ports: int) -> int:
    """Return how many connections each of `workers` processes can hold, of `wanted` in all.

    `descriptors` is what one process may open, `ports` how many listening sockets it holds. Logs a warning if
    the descriptors of all workers together allow less than the setting.
    """
    possible = max(1, (descriptors - _RESERVE - ports) // _PER_CONNECTION)
    if possible * workers < wanted:
        _log.warning(
            "the limit of open files allows fewer connections than EGRESS_MAX_CONNECTIONS",
            wanted=wanted,
            possible=possible * workers,
            open_files=descriptors,
        )
    return possible
