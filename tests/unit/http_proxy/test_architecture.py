"""A CONNECT goes the way that docs/architecture.md describes: eight files, and helpers that are named there."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tests.unit.http_proxy.origin import OK, Client, answering, origin, proxy
from tests.waiting import until

if TYPE_CHECKING:
    from types import FrameType

ROOT = Path(__file__).parents[3]
OUR_CODE = str(ROOT / "egress_router") + "/"


def test_a_connect_passes_the_files_that_the_document_names() -> None:
    section = (ROOT / "docs" / "architecture.md").read_text().partition("*A CONNECT*")[2]
    section = section.partition("*A GET*")[0]
    steps = re.findall(r"(?m)^\| \d+ \| `(.*?)`", section)
    helpers = set(re.findall(r"`([\w/]+\.py)`", section)) - set(steps)
    passed: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(OUR_CODE):
            passed.add(name.removeprefix(OUR_CODE))

    with origin(answering(OK)) as server:
        threading.setprofile(note)
        try:
            with proxy() as (running, port):
                threading.setprofile(None)
                running.call(passed.clear)  # what starting calls is no step
                with Client(port) as client:
                    client.send(f"CONNECT {server.authority} HTTP/1.1\r\nHost: x\r\n\r\n")
                    client.head()
                    client.send("GET / HTTP/1.1\r\n\r\n")
                    client.answer()
                until(lambda: running.call(running.server.open_connections) == 0)
                found = running.call(passed.copy)
        finally:
            threading.setprofile(None)
    assert 0 < len(steps) <= 8
    assert set(steps) <= found
    own = {each for each in found if each.startswith(("http_proxy/", "policy/"))}
    others = own - set(steps) - {"http_proxy/server.py"}  # `until` asks it
    unnamed = {each for each in others if not any(each.endswith(f"/{helper}") for helper in helpers)}
    assert not unnamed
