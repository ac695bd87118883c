from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.measured import measured

# The signal comes in a finalizer, where the interpreter ignores exceptions.
ASKED_IN_A_FINALIZER = """
import os, signal
from egress_router.setup.steps import end_when_asked

class Loop:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})

end_when_asked()
Loop()
print("goes on")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_setup_wherever_it_comes(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASKED_IN_A_FINALIZER.format(name=name)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **measured()},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
