"""The same simulation, compiled: the protocol and its world go through mypyc, four times as fast.

A compiled copy proves something only if it does what the interpreter does; so both run the same schedules first,
and have to end in the same states.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, NoReturn

from tests.unit.standby.simulation.schedules import digest

_ROOT = Path(__file__).resolve().parents[4]
_TARGET = _ROOT / "build" / "simulation"
_COMPARED = range(100)
_COMPILED: Final = (
    "egress_router/standby/protocol/*.py",
    *(f"tests/unit/standby/simulation/{name}.py" for name in ("router", "arbiter", "world")),
)


def run(arguments: list[str]) -> NoReturn:
    """Build the copy, compare it with the interpreter, and go on in it."""
    _copy()
    modules = [
        str(found.relative_to(_ROOT)) for pattern in _COMPILED for found in sorted(_ROOT.glob(pattern))
    ]
    mypyc = [sys.executable, "-m", "mypyc", *modules]
    subprocess.run(mypyc, cwd=_TARGET, check=True, stdout=subprocess.DEVNULL)
    command = [sys.executable, "-m", "tests.unit.standby.simulation"]
    compared = [*command, str(len(_COMPARED)), "--digest"]
    found = subprocess.run(compared, cwd=_TARGET, check=True, capture_output=True, text=True).stdout.strip()
    if found != (expected := digest(_COMPARED)):
        sys.exit(f"compiled, the schedules {_COMPARED} end in {found}; the interpreter's in {expected}")
    os.chdir(_TARGET)
    os.execv(command[0], [*command, *arguments])  # noqa: S606 (no shell is wanted)


def _copy() -> None:
    shutil.rmtree(_TARGET, ignore_errors=True)
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    for folder in ("egress_router", "tests/unit/standby"):
        shutil.copytree(_ROOT / folder, _TARGET / folder, ignore=ignore)
    for folder in ("tests", "tests/unit", "tests/unit/standby"):
        (_TARGET / folder / "__init__.py").touch()  # mypyc knows no other packages
