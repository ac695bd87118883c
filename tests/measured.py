"""Coverage of processes that tests start with an environment of their own: `make coverage` measures them too."""

from __future__ import annotations

import os


def measured() -> dict[str, str]:
    """Return the variables that such a process needs to be measured; none in other runs."""
    return {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
