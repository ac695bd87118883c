"""The part of pyroute2 that is used, imported without the rest.

`import pyroute2` imports all of the library (pyroute2/__init__.py: a database, connection tracking and more):
this takes twice the time, and 6 MB more in each `setup`. So its package object is created without running it
while the modules in question are imported. A later `import pyroute2` gets all of it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = "pyroute2"


@contextlib.contextmanager
def _without_the_rest() -> Iterator[None]:
    found = importlib.util.find_spec(_NAME)
    if found is None or _NAME in sys.modules:
        yield
        return
    sys.modules[_NAME] = importlib.util.module_from_spec(found)
    try:
        yield
    finally:
        del sys.modules[_NAME]


with _without_the_rest():
    from pyroute2.iproute import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

__all__ = ["IPRoute", "NetlinkError"]
