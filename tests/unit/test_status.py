from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from egress_router import status
from egress_router.errors import RefusedError
from tests.manual_clock import ManualClock
from tests.ports import free_port
from tests.unit.admin.views import FakeView, endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def view() -> FakeView:
    return FakeView()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def url(view: FakeView, clock: ManualClock) -> Iterator[str]:
    with endpoint(view, clock) as port:
        yield f"http://127.0.0.1:{port}"


def test_it_shows_what_the_endpoint_knows(
    view: FakeView, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    view.answer["denied"] = [
        {"time": 0, "client": "10.0.0.1", "target": "bad.example:443", "rule": None, "reason": "no_rule"}
    ]
    assert status.show(url, watch=False) == 0
    text = capsys.readouterr().out
    assert text.startswith("egress router http-proxy 1.0.0: ready\n")
    for part in (
        "  source address     192.168.12.99\n",
        "  workers            1 of 1\n",
        "  1     5     *.example.com\n",
        "  db.example.com:443  203.0.113.9:443  up\n",
        "  1970-01-01 00:00:00Z  10.0.0.1  bad.example:443  no_rule  -\n",
    ):
        assert part in text


def test_lines_of_redirect_mode_have_the_kernels_counts(
    view: FakeView, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    view.answer["rules"] = [
        {"line": 1, "text": "80 tcp 1.2.3.4", "hits": 3, "packets": 40, "sent_bytes": 5, "received_bytes": 6}
    ]
    status.show(url, watch=False)
    assert "  1     3     40       5           6               80 tcp 1.2.3.4\n" in capsys.readouterr().out


def test_the_administrators_rules_and_the_source_ports_have_tables(
    view: FakeView, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = "ip daddr 203.0.113.25 counter drop"
    view.answer["admin_rules"] = {
        "rules": [{"text": rule, "packets": 7, "bytes": 420, "from": "file"}],
        "error": None,
    }
    view.answer["source_ports"] = [{"source": "192.0.2.9", "destination": "203.0.113.25:80/tcp", "in_use": 9}]
    status.show(url, watch=False)
    text = capsys.readouterr().out
    assert f"  file  7        420    {rule}\n" in text
    assert "  192.0.2.9  203.0.113.25:80/tcp  9\n" in text


def test_it_says_what_is_wrong(view: FakeView, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    view.ready_problems = ("worker 0 does not serve",)
    view.answer["reload"] = {"source": "f", "loaded": 0, "refused": 1, "errors": ["line 3: 'x': bad"]}
    view.answer["upstreams"] = [{"destination": "d", "address": "", "up": False, "reason": "no such name"}]
    assert status.show(url + "/status", watch=False) == 3
    text = capsys.readouterr().out
    assert ": not ready\n  worker 0 does not serve\n" in text
    assert "  line 3: 'x': bad\n" in text
    assert "no such name" in text


def test_a_router_that_is_not_healthy_is_no_success(
    view: FakeView, url: str, clock: ManualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    view.ready_problems = ("gateway 192.168.12.1 does not answer on macvlan0",)
    # A restart would help a router that is not healthy, not one that is not ready.
    assert status.show(url, watch=False, health_only=True) == 0
    view.health_problems = ("worker 0 has not reported for 31 s",)
    capsys.readouterr()
    clock.advance(1)
    assert status.show(url, watch=False, health_only=True) == 3
    text = capsys.readouterr().out
    assert "  worker 0 has not reported for 31 s\n" in text
    assert "  workers            1 of 1\n" in text


def test_an_endpoint_that_is_turned_off_is_no_fault(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the images' health check calls it: a router without an endpoint, by its settings, is healthy."""
    monkeypatch.setenv("EGRESS_ADMIN_PORT", "0")
    assert status.show(None, watch=False) == 0
    assert "EGRESS_ADMIN_PORT is 0: the administration endpoint is off" in capsys.readouterr().out
    assert status.show(url, watch=False) == 0
    assert "egress router http-proxy" in capsys.readouterr().out


def test_what_clients_chose_cannot_steer_the_terminal(
    view: FakeView, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {"time": 0, "client": "c", "target": "a\x1b[2Jb\nc\u202e", "rule": None, "reason": "r"}
    view.answer["denied"] = [{**entry}]  # type: ignore[dict-item]
    status.show(url, watch=False)
    assert "a\\x1b[2Jb\\nc\\u202e" in capsys.readouterr().out


def test_watch_goes_on_when_the_router_is_gone(
    view: FakeView, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []

    def sleep(_: float) -> None:
        shown.append(capsys.readouterr().out)
        if len(shown) == 2:
            raise KeyboardInterrupt

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with endpoint(view) as port:
        monkeypatch.setenv("EGRESS_ADMIN_PORT", str(port))
        with pytest.raises(KeyboardInterrupt):
            status.show(None, watch=True, sleep=sleep)
    assert "ready" in shown[1]
    shown.clear()
    with pytest.raises(KeyboardInterrupt):
        status.show(None, watch=True, sleep=sleep)
    assert "Connection refused" in shown[1]


def test_watch_has_a_screen_of_its_own_and_writes_none_into_a_pipe(url: str) -> None:
    # A shell makes background jobs ignore SIGINT, and what the tests start inherits that.
    heeding = ["env", "--default-signal=INT"]
    command = [*heeding, sys.executable, "-m", "egress_router", "status", "--watch", "--url", url]

    def first_of(output: int, process: subprocess.Popen[bytes]) -> bytes:
        seen = b""
        while seen.count(b"workers") < 1:
            seen += os.read(output, 4096)
        process.send_signal(signal.SIGINT)
        # It may still write, and a terminal buffers little: read to the end before waiting for the process.
        with contextlib.suppress(OSError):  # EIO: no process has the terminal open any more
            while more := os.read(output, 4096):
                seen += more
        process.wait()
        return seen

    leader, follower = pty.openpty()
    with subprocess.Popen(command, stdout=follower) as process:
        os.close(follower)
        seen = first_of(leader, process)
    os.close(leader)
    assert seen.startswith(b"\x1b[?1049h\x1b[H\x1b[J")
    assert seen.rstrip().endswith(b"\x1b[?1049l")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"\x1b" not in first_of(process.stdout.fileno(), process)


def test_json_is_what_the_endpoint_says_and_errors(
    view: FakeView, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    view.answer["denied"] = [{"target": "\x1b[2J"}]
    assert status.show(url, watch=False, as_json=True) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    found = json.loads(text)
    assert (found["mode"], found["errors"]) == ("http-proxy", [])


def test_watched_json_is_a_line_each_time_whatever_is_there(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def end(_: float) -> None:
        raise KeyboardInterrupt

    nobody = f"http://127.0.0.1:{free_port()}"
    for asked in (url, nobody):
        with pytest.raises(KeyboardInterrupt):
            status.show(asked, watch=True, as_json=True, sleep=end)
    served, missing = map(json.loads, capsys.readouterr().out.splitlines())
    assert (served["mode"], served["errors"]) == ("http-proxy", [])
    assert "cannot ask" in missing["errors"][0]["source"]
    monkeypatch.setenv("EGRESS_ADMIN_PORT", "0")
    assert status.show(None, watch=False, as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == {"errors": []}


def test_nobody_there_is_one_line() -> None:
    port = free_port()
    with pytest.raises(RefusedError, match=f"cannot ask http://127.0.0.1:{port}/status: .*refused"):
        status.show(f"http://127.0.0.1:{port}", watch=False)
    with pytest.raises(RefusedError, match="expected an address"):
        status.show("file:///etc/passwd", watch=False)


def test_the_pair_the_busiest_and_recent_errors_have_tables(
    view: FakeView, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    view.answer["standby"] = {
        "role": "active", "since": 60, "holder": None, "take_overs": 2, "losses": 0, "took": 0.31,
        "peers": [{"mac": "02:00:00:00:00:02", "address": "10.128.0.9", "role": "standby", "ways": ["wire"]}],
    }  # fmt: skip
    view.answer["busiest"] = {
        "clients": [{"client": "10.128.0.7", "open": 93}],
        "destinations": [{"destination": "db.example.com:443", "open": 90}],
    }
    view.answer["recent_errors"] = [{"time": 0, "level": "error", "text": "names: it fails"}]
    status.show(url, watch=False)
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        "active 1970-01-01 00:01:00Z - 2 0 0.31",
        "10.128.0.9 02:00:00:00:00:02 standby",
        "10.128.0.7 93",
        "db.example.com:443 90",
        "1970-01-01 00:00:00Z error names: it fails",
    ):
        assert line in said
