"""A pytest plugin: the tests run on the build of the data plane that EGRESS_TEST_PLANE names."""

from __future__ import annotations

import importlib.util
import os
import sys

_NAME = "egress_router.relay._plane"


def load() -> None:
    """Import that build before anybody imports the installed one."""
    assert _NAME not in sys.modules, "too late"
    spec = importlib.util.spec_from_file_location(_NAME, os.environ["EGRESS_TEST_PLANE"])
    assert spec is not None
    assert spec.loader is not None
    sys.modules[_NAME] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


load()
