"""The command line as a process would call it, and what came of it."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile

import pytest

from egress_router.cli import main
from tests.measured import measured


def outcome(*argv: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    return int(str(caught.value.code or 0))


def check(*words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run `check` in this process, with this on its standard input."""
    with (
        tempfile.TemporaryFile() as file,
        contextlib.redirect_stdout(io.StringIO()) as said,
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        file.write(given)
        file.seek(0)
        kept = os.dup(0)
        os.dup2(file.fileno(), 0)
        try:
            status = outcome("check", *words)
        finally:
            os.dup2(kept, 0)
            os.close(kept)
    return subprocess.CompletedProcess(words, status, said.getvalue().encode(), errors.getvalue().encode())


def errors_of(command: str, environ: dict[str, str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "egress_router", command],
        env={**measured(), **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()
