"""What others wrote cannot steer the terminal of whoever reads it, in the output of any command."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from egress_router.terminal import visible, visible_lines
from tests.measured import measured

if TYPE_CHECKING:
    from pathlib import Path

CLEAR = "\x1b[2J\x07\x9b31m\u202e"
POD = f"""
apiVersion: v1
kind: Pod
metadata: {{name: p}}
spec:
  containers:
  - name: {json.dumps("c" + CLEAR)}
    image: egress-http-proxy
    env:
    - {{name: EGRESS_HTTP_PROXY_DESTINATION, value: "*"}}
"""


def test_text_that_can_be_printed_stays() -> None:
    assert visible("Größe 5 µs, 例え.jp") == "Größe 5 µs, 例え.jp"


def test_what_steers_a_terminal_is_shown() -> None:
    assert visible("a\x1b[2Jb\r\nc\u202e\udc9b") == r"a\x1b[2Jb\r\nc\u202e\udc9b"
    assert visible_lines("a\n\x1b\n") == "a\n\\x1b\n"


@pytest.mark.parametrize("command", ["--help", "check --help", "--version"])
def test_no_colour_is_asked_for_and_none_comes(command: str) -> None:
    """https://no-color.org: also where a terminal is written to, and by Python's own help (3.14 colours it)."""
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "xterm-256color"}
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "egress_router", *command.split()], stdout=follower, env=environment
    ) as process:
        os.close(follower)
        seen = b""
        with contextlib.suppress(OSError):  # EIO: nobody has the other end open any more
            while more := os.read(leader, 4096):
                seen += more
    os.close(leader)
    assert process.returncode == 0
    assert b"egress" in seen
    assert b"\x1b" not in seen


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", CLEAR],
        ["check", "redirect", CLEAR],
        ["check", "redirect", "{rules}"],
        ["check", "{pod}"],
        ["check", "{rules}", CLEAR, CLEAR],
        ["explain", "{list}", "http://" + CLEAR + "/"],
        ["explain", "{list}", "example.com", CLEAR],
        ["explain", "{rules}", "example.com"],
        ["status", "--url", "http://127.0.0.1:1/" + CLEAR],
        ["status", "--" + CLEAR],
        [CLEAR],
        ["setup"],
        ["http-proxy"],
        ["dns-proxy"],
    ],
)
def test_no_command_passes_an_escape_on(tmp_path: Path, arguments: list[str]) -> None:
    files = {"rules": f"80 tcp {CLEAR}\n", "list": "*\n", "pod": POD}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    paths = {name: str(tmp_path / name) for name in files}
    variables = ("EGRESS_SOURCE", "EGRESS_ADMIN_PORT", "EGRESS_HTTP_PROXY_DESTINATION_FILE", "EGRESS_WORKERS")
    done = subprocess.run(
        [sys.executable, "-m", "egress_router", *(each.format(**paths) for each in arguments)],
        env={"PATH": os.environ["PATH"], **measured(), **dict.fromkeys(variables, CLEAR)},
        check=False,
        capture_output=True,
    )
    printed = (done.stdout + done.stderr).decode()
    assert printed.strip()
    assert "Traceback" not in printed
    assert all(each.isprintable() for each in printed.replace("\n", "")), repr(printed)
