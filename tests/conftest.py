"""What holds for all tests."""

from __future__ import annotations

import gc
import os
import sysconfig
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import pytest

# How long an example takes says how busy the machine is. What must be quick is counted in steps or compared.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# python-iptables, which the program starts anew for each family, would load setuptools, and run compiler and linker
# to find its own library: four times the time of everything else that it does.
os.environ.setdefault("SETUPTOOLS_USE_DISTUTILS", "stdlib")
os.environ.setdefault("IPTABLES_LIBDIR", sysconfig.get_path("platlib"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first: single long tests, then what one process runs one after the other."""
    items.sort(key=lambda item: [item.get_closest_marker(each) is None for each in ("slow", "xdist_group")])


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking all that pytest holds of all tests each time."""
    gc.collect()
    gc.freeze()
