from __future__ import annotations

import subprocess
import sys

ONE_PART, ALL = (
    """
import sys
before = set(sys.modules)  # what measures coverage has some of them already
from egress_router.kernel import pyroute2_loading
assert "pyroute2" not in sys.modules
names = sys.modules.keys() - before
assert not any(name.startswith(("pyroute2.ndb", "pyroute2.conntrack", "sqlite3")) for name in names)
""",
    """
import pyroute2
from egress_router.kernel import pyroute2_loading
assert pyroute2.IPRoute is pyroute2_loading.IPRoute
assert pyroute2.NetlinkError is pyroute2_loading.NetlinkError
""",
)


def test_only_what_is_used_is_imported() -> None:
    subprocess.run([sys.executable, "-c", ONE_PART], check=True)


def test_who_imports_all_of_it_has_the_same_classes_before_and_after() -> None:
    for code in (ONE_PART + ALL, ALL):
        subprocess.run([sys.executable, "-c", code], check=True)
