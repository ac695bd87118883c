"""The page for people, in a real browser."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.browser.browser import Page, chromium
from tests.browser.busy_day import fill
from tests.ports import free_port
from tests.unit.admin.views import FakeView, endpoint
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from egress_router.service.mode import Json

HOSTILE = '<img src=x onerror="document.title=1">"\'&amp;\u202e<script>alert(1)</script>'


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if shutil.which("chromium") is None:
        pytest.fail("these tests need a browser: install the package chromium", pytrace=False)
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def view() -> FakeView:
    return FakeView()


@pytest.fixture
def page(browser: Page, view: FakeView) -> Iterator[Page]:
    browser.detach()
    browser.complaints.clear()
    with endpoint(view) as port:
        browser.open(f"http://127.0.0.1:{port}/")
        browser.wait("document.getElementById('verdict')?.className === 'good'")
        yield browser
        browser.call("Page.navigate", url="about:blank")


def text(page: Page, element: str) -> str:
    found = page.evaluate(f"document.getElementById('{element}').innerText")
    assert isinstance(found, str)
    return found


def test_it_shows_what_a_person_wants_to_see_first(page: Page) -> None:
    assert text(page, "verdict") == "ready"
    assert text(page, "mode") == "http-proxy"
    assert text(page, "release") == "1.0.0"
    assert text(page, "source") == "192.168.12.99"
    assert text(page, "gateway") == "192.168.12.1"
    assert text(page, "open") == "12"
    assert text(page, "workers") == "1 of 1"
    assert text(page, "uptime") == "3 d 0 h"
    assert text(page, "rules").split() == ["line", "rule", "hits", "1", "*.example.com", "5"]
    assert text(page, "upstreams").split()[-3:] == ["db.example.com:443", "203.0.113.9:443", "up"]
    assert "nothing was denied" in text(page, "denied")
    assert page.evaluate("document.getElementById('reload').hidden") is True
    assert page.complaints == []


def test_lines_of_redirect_mode_have_the_kernels_counts(page: Page, view: FakeView) -> None:
    view.answer["mode"] = "redirect"
    view.answer["workers"] = []
    traffic: dict[str, Json] = {"packets": 1234, "sent_bytes": 2048, "received_bytes": 5_000_000}
    view.answer["rules"] = [{"line": 1, "text": "80 tcp 203.0.113.25", "hits": 17, "failures": 3, **traffic}]
    page.wait("document.getElementById('mode').innerText === 'redirect'")
    row = page.evaluate("document.querySelector('#rules tbody tr').innerText").split("\t")
    assert row == ["1", "80 tcp 203.0.113.25", "17", "3", "1234", "2.0 KiB", "4.8 MiB"]
    assert page.evaluate("document.querySelector('#rules .traffic').hidden") is False
    assert page.evaluate("document.getElementById('denials').hidden") is True
    assert page.complaints == []


def test_rules_that_are_not_shown_are_mentioned_and_found(page: Page, view: FakeView) -> None:
    assert text(page, "shown") == ""
    view.answer["rules"] = [
        {"line": line, "text": f"{line}.example.com", "hits": 0} for line in range(1, 261)
    ]
    page.wait("document.querySelectorAll('#rules tbody tr').length === 200")
    assert text(page, "shown") == "200 of 260 rules are shown"
    page.evaluate(
        "document.getElementById('search').value = '259.EXAMPLE';"
        "document.getElementById('search').dispatchEvent(new Event('input'))"
    )
    assert text(page, "rules").split()[-3:] == ["259", "259.example.com", "0"]
    assert text(page, "shown") == "1 of 260 rules are shown"


def test_rules_are_sorted_by_what_is_clicked(page: Page, view: FakeView) -> None:
    view.answer["rules"] = [
        {"line": line, "text": name, "hits": hits}
        for line, (name, hits) in enumerate((("b", 5), ("c", 9), ("a", 7)))
    ]
    page.wait("document.querySelectorAll('#rules tbody tr').length === 3")

    def names() -> str:
        found = page.evaluate(
            "[...document.querySelectorAll('#rules tbody tr')].map((row) => row.cells[1].innerText).join('')"
        )
        assert isinstance(found, str)
        return found

    assert names() == "bca"
    for key, expected in (("hits", "cab"), ("hits", "bac"), ("text", "abc")):
        page.evaluate(f"document.querySelector('#rules button[data-key={key}]').click()")
        assert names() == expected
    page.wait("document.querySelector('#rules th:nth-child(2)').getAttribute('aria-sort') === 'ascending'")


def test_what_is_wrong_is_on_top_with_since_when(page: Page, view: FakeView) -> None:
    view.answer["pod"] = "db-egress-router-7d9"
    view.registry.flag("upstream_up", "1 where it answers.", address="").value = 0
    view.registry.counter("limit_hits_total", "l", limit="connections").value = 3
    page.wait("document.getElementById('verdict').innerText === 'ready, with problems'")
    page.wait("document.querySelectorAll('#problems li').length === 2")
    assert (
        page.evaluate("document.title") == "ready, with problems: db-egress-router-7d9, egress router 1.0.0"
    )
    assert "the limit connections was met 3 times in the last 5 minutes since 20" in text(page, "problems")
    assert page.evaluate("document.getElementById('verdict').className") == "warn"
    top = "document.getElementById('{}').getBoundingClientRect().top"
    assert page.evaluate(f"{top.format('problems')} < {top.format('facts')}") is True
    view.ready_problems = ("gateway 192.168.12.1 does not answer on macvlan0",)
    page.wait("document.getElementById('verdict').innerText === 'not ready'")
    first = page.evaluate("document.querySelector('#problems li').innerText")
    assert first.startswith("gateway 192.168.12.1 does not answer on macvlan0")
    assert page.complaints == []


def test_a_pair_shows_who_is_active_and_one_that_stands_by_is_not_red(page: Page, view: FakeView) -> None:
    assert page.evaluate("document.getElementById('pair').hidden") is True
    peers: list[Json] = [
        {
            "mac": "02:00:00:00:00:01",
            "address": "10.128.0.21",
            "role": "active",
            "ways": ["wire", "pod network"],
        },
        {"mac": "02:00:00:00:00:02", "address": None, "role": "standby", "ways": []},
    ]
    standby: dict[str, Json] = {
        "role": "standby", "holder": "02:00:00:00:00:01", "peers": peers, "take_overs": 2, "losses": 1,
        "since": 60, "took": 0.3127, "problems": [],
    }  # fmt: skip
    view.answer["standby"] = standby
    view.ready_problems = ("standing by; 192.168.12.99 is held by 02:00:00:00:00:01",)
    page.wait("document.getElementById('verdict').innerText === 'standing by'")
    assert page.evaluate("document.getElementById('verdict').className") == "waiting"
    assert text(page, "role") == "standby since 1970-01-01 00:01:00Z"
    assert text(page, "holder") == "02:00:00:00:00:01"
    assert text(page, "take-overs") == "2, 1"
    assert text(page, "took") == "0.313 s"
    assert "10.128.0.21" in text(page, "peers")
    assert "wire, pod network" in text(page, "peers")
    assert "not heard" in text(page, "peers")
    view.answer["standby"] = {**standby, "role": "active", "holder": None, "peers": []}
    view.ready_problems = ()
    page.wait("document.getElementById('verdict').className === 'good'")
    assert text(page, "holder") == "this pod"
    assert "nobody would take over" in text(page, "peers")
    # Its process is gone.
    view.answer["standby"] = {"problems": ["the process that keeps the fence does not answer"]}
    view.ready_problems = ("the process that keeps the fence does not answer",)
    page.wait("document.getElementById('verdict').className === 'bad'")
    assert text(page, "role") == "not known"
    assert page.complaints == []


def test_the_policy_has_its_entries_and_when_each_denied_last(page: Page, view: FakeView) -> None:
    assert page.evaluate("document.getElementById('policy-section').hidden") is True
    view.answer["policy"] = [
        {"entry": 1, "text": "Allow 203.0.113.0/24", "denied": 0},
        {"entry": 2, "text": "Deny 0.0.0.0/0", "denied": 7},
    ]
    view.answer["denied"] = [
        {"time": 60, "client": "10.0.0.1", "target": "a:1", "rule": "policy entry 2: Deny 0.0.0.0/0", "reason": "policy"},
        {"time": 30, "client": "10.0.0.2", "target": "b:1", "rule": "policy entry 2: Deny 0.0.0.0/0", "reason": "policy"},
    ]  # fmt: skip
    page.wait("document.getElementById('policy-section').hidden === false")
    rows = page.evaluate("[...document.querySelectorAll('#policy tbody tr')].map((row) => row.innerText)")
    assert rows == [
        "1\tAllow 203.0.113.0/24\t0\tnever",
        "2\tDeny 0.0.0.0/0\t7\t1970-01-01 00:01:00Z 10.0.0.1 to a:1",
    ]
    assert page.complaints == []


def test_the_busiest_and_the_last_errors_are_shown_and_what_is_left_out_is_said(
    page: Page, view: FakeView
) -> None:
    view.answer["busiest"] = {
        "clients": [{"client": "10.128.0.7", "open": 93}],
        "destinations": [{"destination": "db.example.com:443", "open": 90}],
        "all_clients": 17,
        "all_destinations": 1,
    }
    view.answer["recent_errors"] = [
        {"time": 0, "level": "error", "text": "names: name server does not answer server=10.96.0.10"}
    ]
    view.answer["upstreams"] = [
        {"destination": f"{number}.example", "address": f"203.0.113.9:{number}", "up": number != 259}
        for number in range(260)
    ]
    view.answer["denied"] = [
        {"time": 0, "client": "c", "target": "t", "rule": None, "reason": "no_rule"} for _ in range(50)
    ]
    page.wait("document.querySelectorAll('#denied tbody tr').length === 50")
    assert text(page, "clients").split()[-2:] == ["10.128.0.7", "93"]
    assert text(page, "targets").split()[-2:] == ["db.example.com:443", "90"]
    assert text(page, "busy-cut") == "The busiest of 17 clients and 1 destinations."
    assert "name server does not answer" in text(page, "errors")
    assert text(page, "upstreams-cut") == "200 of 260 addresses are shown"
    # What is down is not among those that are left out.
    assert page.evaluate("document.querySelector('#upstreams tbody tr').innerText").startswith("259.example")
    assert text(page, "denied-cut") == "The last 50; the records in the log have more."
    assert page.complaints == []


def test_the_keyboard_is_enough(page: Page) -> None:
    reached = []
    for _ in range(8):
        page.press("Tab", 9)
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
    assert reached[:4] == ["search", "line", "rule", "hits"]
    assert {"metrics", "status as JSON"} <= set(reached)
    page.evaluate("document.querySelector('#rules button[data-key=hits]').focus()")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    page.press("Enter", 13, "\r")
    page.wait(
        "document.querySelector('#rules button[data-key=hits]').closest('th').ariaSort === 'descending'"
    )
    assert outline == "solid"


def test_it_is_live_without_being_loaded_again(page: Page, view: FakeView) -> None:
    page.evaluate("window.same = true")
    view.ready_problems = ("gateway 192.168.12.1 does not answer on macvlan0",)
    view.answer["upstreams"] = [{"destination": "db", "address": "203.0.113.9:443", "up": False}]
    view.answer["rules"] = [{"line": 1, "text": "*.example.com", "hits": 77}]
    view.answer["reload"] = {
        "source": "/etc/egress/rules",
        "loaded": 0,
        "refused": 0,
        "errors": ["line 3: 'x y': bad"],
    }
    page.wait("document.getElementById('verdict').innerText === 'not ready'")
    assert text(page, "problems").startswith("gateway 192.168.12.1 does not answer on macvlan0")
    assert text(page, "upstreams").endswith("down")
    assert "77" in text(page, "rules")
    assert "line 3: 'x y': bad" in text(page, "reload")
    assert "1970-01-01 00:00:00Z" in text(page, "reload")
    view.ready_problems = ()
    page.wait("document.getElementById('verdict').innerText === 'ready'")
    assert page.evaluate("window.same") is True
    assert page.complaints == []


def test_what_clients_chose_is_shown_as_text(page: Page, view: FakeView) -> None:
    entry: dict[str, Json] = {
        "time": 0,
        "client": HOSTILE,
        "target": HOSTILE,
        "rule": HOSTILE,
        "reason": HOSTILE,
    }
    view.answer["denied"] = [entry]
    view.answer["rules"] = [{"line": 1, "text": HOSTILE, "hits": 1}]
    view.answer["policy"] = [{"entry": 1, "text": HOSTILE, "denied": 1}]
    view.answer["recent_errors"] = [{"time": 0, "level": HOSTILE, "text": HOSTILE}]
    view.answer["standby"] = {
        "role": HOSTILE, "holder": HOSTILE, "take_overs": HOSTILE, "losses": 0,
        "peers": [{"mac": HOSTILE, "address": HOSTILE, "role": HOSTILE, "ways": [HOSTILE]}],
    }  # fmt: skip
    view.answer["busiest"] = {
        "clients": [{"client": HOSTILE, "open": 1}], "destinations": [{"destination": HOSTILE, "open": 1}],
        "all_clients": 1, "all_destinations": 1,
    }  # fmt: skip
    view.answer["upstreams"] = [{"destination": HOSTILE, "address": HOSTILE, "up": False, "reason": HOSTILE}]
    view.answer["mode"] = HOSTILE
    view.answer["reload"] = {"source": HOSTILE, "loaded": 0, "refused": 0, "errors": [HOSTILE]}
    view.ready_problems = (HOSTILE,)
    page.wait("document.getElementById('denied').innerText.includes('onerror')")
    assert page.evaluate("document.querySelectorAll('img, body script').length") == 0
    cell = page.evaluate("document.querySelector('#denied tbody td:nth-child(2)').textContent")
    assert cell == HOSTILE
    assert page.evaluate("document.title") == "not ready: egress router 1.0.0"
    assert page.complaints == []


def test_a_router_that_does_not_answer_shows_as_such(browser: Page, view: FakeView) -> None:
    browser.detach()
    with endpoint(view) as port:
        browser.open(f"http://127.0.0.1:{port}/")
        browser.wait("document.getElementById('verdict')?.innerText === 'ready'")
    browser.wait("document.getElementById('verdict').innerText === 'no answer'")
    browser.call("Page.navigate", url="about:blank")


def test_a_real_proxy_shows_what_it_denied(browser: Page, tmp_path: Path) -> None:
    port, admin = free_port(), free_port()
    rules = tmp_path / "rules"
    rules.write_text("!*.bad.example\n*.good.example\n")
    environment = {
        **os.environ,
        "EGRESS_HTTP_PROXY_DESTINATION_FILE": str(rules),
        "EGRESS_HTTP_PROXY_PORT": str(port),
        "EGRESS_ADMIN_PORT": str(admin),
        "EGRESS_WORKERS": "2",
        "EGRESS_INTERFACE": "none0",
    }
    command = [sys.executable, "-m", "egress_router", "http-proxy"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: listens(port) and listens(admin), "the proxy")
            browser.detach()
            browser.complaints.clear()
            browser.open(f"http://127.0.0.1:{admin}/")
            browser.wait("document.getElementById('verdict')?.innerText === 'ready'")
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(b"CONNECT www.bad.example:443 HTTP/1.1\r\nHost: www.bad.example:443\r\n\r\n")
                assert client.recv(1000).startswith(b"HTTP/1.1 403")
            browser.wait("document.getElementById('denied').innerText.includes('www.bad.example:443')")
            assert "!*.bad.example" in text(browser, "denied")
            assert text(browser, "rules").split()[-6:] == [
                "1",
                "!*.bad.example",
                "1",
                "2",
                "*.good.example",
                "0",
            ]
            rules.write_text("!*.bad.example\nbad..name\n")
            browser.wait("!document.getElementById('reload').hidden")
            assert "line 2: 'bad..name'" in text(browser, "reload-errors")
            assert browser.complaints == []
        finally:
            process.kill()
            browser.call("Page.navigate", url="about:blank")


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_and_the_dark(page: Page, view: FakeView, *, dark: bool) -> None:
    long = "a-very-long-name." * 12 + "example.com:443"
    view.answer["upstreams"] = [{"destination": long, "address": "[2001:db8::1:2:3:4]:443", "up": True}]
    view.answer["denied"] = [
        {"time": 0, "client": "2001:db8::1:2:3:4", "target": long, "rule": None, "reason": "no_rule"}
    ]
    view.answer["policy"] = [{"entry": 1, "text": f"Deny {long}", "denied": 1234567}]
    view.answer["recent_errors"] = [{"time": 0, "level": "error", "text": long * 3}]
    view.answer["busiest"] = {
        "clients": [{"client": "2001:db8:1111:2222:3333:4444:5555:6666", "open": 12345}],
        "destinations": [{"destination": long, "open": 12345}],
        "all_clients": 1,
        "all_destinations": 1,
    }
    view.answer["standby"] = {
        "role": "standby", "holder": "02:00:00:00:00:01", "take_overs": 1, "losses": 0,
        "peers": [{"mac": "02:00:00:00:00:01", "address": "2001:db8:1111:2222:3333:4444:5555:6666",
                   "role": "active", "ways": ["wire", "pod network"]}],
    }  # fmt: skip
    page.resize(360, 740, dark=dark)
    page.wait("document.getElementById('denied').innerText.includes('a-very-long')")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")


def test_the_plot_draws_the_last_hour(tmp_path: Path, page: Page, view: FakeView) -> None:
    fill(view)
    page.resize(1000, 900, dark=False)
    page.wait("document.querySelector('path.received').getAttribute('d').length > 2000")
    image = tmp_path / "status-page.png"
    page.screenshot(image)
    assert image.stat().st_size > 20_000
    assert page.complaints == []
