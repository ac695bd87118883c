"""The administration endpoint, over real sockets."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import re
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from egress_router.admin.app import READY_OR_STANDBY, Limits
from egress_router.standby.protocol.role import Role
from egress_router.standby.status import Status
from tests.manual_clock import ManualClock
from tests.unit.admin.views import FakeView, endpoint
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.service.mode import Json


@pytest.fixture
def view() -> FakeView:
    return FakeView()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def port(view: FakeView, clock: ManualClock) -> Iterator[int]:
    with endpoint(view, clock) as port:
        yield port


def exchange(port: int, request: bytes) -> bytes:
    """Send bytes and return everything that comes until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(request)
        answer = b""
        while chunk := received(sock):
            answer += chunk
        return answer


def received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except ConnectionResetError:
        return b""


def get(port: int, path: str, method: str = "GET") -> tuple[int, str, str]:
    answer = exchange(port, f"{method} {path} HTTP/1.1\r\nHost: whatever\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), body.decode()


def test_health_and_readiness_say_why_not(view: FakeView, port: int) -> None:
    assert get(port, "/healthz")[::2] == (200, "ok\n")
    assert get(port, "/readyz")[::2] == (200, "ok\n")
    view.ready_problems = ("gateway 192.168.12.1 does not answer on macvlan0", "worker 0 does not serve")
    assert get(port, "/readyz")[::2] == (
        503,
        "gateway 192.168.12.1 does not answer on macvlan0\nworker 0 does not serve\n",
    )
    assert get(port, "/healthz")[0] == 200
    view.health_problems = ("worker 0 has not reported for 31 s",)
    assert get(port, "/healthz")[::2] == (503, "worker 0 has not reported for 31 s\n")


def test_what_replaces_pods_takes_a_good_standby_for_ready(view: FakeView, port: int) -> None:
    held = Status(Role.STANDBY, ("192.168.12.99",), holder="02:00:00:00:00:01").problems()
    view.ready_problems = held
    assert get(port, "/readyz")[0] == 503
    assert get(port, READY_OR_STANDBY)[::2] == (200, "ok\n")
    view.ready_problems = (*held, "worker 0 does not serve")
    assert get(port, READY_OR_STANDBY)[::2] == (503, "worker 0 does not serve\n")
    for bad in (
        Status(Role.STANDBY, ("192.168.12.99",)),
        Status(Role.LISTENING, ("192.168.12.99",)),
        Status(Role.LEAVING, ("192.168.12.99",), holder="02:00:00:00:00:01"),
        Status(Role.STANDBY, ("192.168.12.99",), rival="02:00:00:00:00:01"),
    ):
        view.ready_problems = bad.problems()
        assert get(port, READY_OR_STANDBY)[0] == 503


def test_status_is_json_with_current_rates(port: int) -> None:
    code, head, body = get(port, "/status")
    assert code == 200
    assert "Content-Type: application/json" in head
    status = json.loads(body)
    assert status["mode"] == "http-proxy"
    assert status["now"]["open"] == 12
    assert status["history"]["seconds"] == 10


def test_a_status_serves_for_a_second(view: FakeView, port: int, clock: ManualClock) -> None:
    assert [get(port, "/status")[0] for _ in range(5)] == [200] * 5
    assert view.asked == 1
    clock.advance(1.0)
    view.answer["version"] = "2"
    assert json.loads(get(port, "/status")[2])["version"] == "2"
    assert view.asked == 2


def test_all_who_ask_while_a_status_is_made_get_that_one(view: FakeView, port: int) -> None:
    asked = threading.Semaphore(0)
    made = threading.Event()

    async def slow() -> dict[str, Json]:
        asked.release()
        await asyncio.to_thread(made.wait, 60)
        return {"mode": "slow"}

    view.make_status = slow
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(get, port, "/status")
        assert asked.acquire(timeout=60)
        others = [pool.submit(get, port, "/status") for _ in range(4)]
        with socket.create_connection(("127.0.0.1", port), timeout=60) as leaving:
            leaving.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
        assert get(port, "/healthz")[0] == 200
        made.set()
        assert all('"slow"' in each.result(60)[2] for each in (first, *others))
    assert not asked.acquire(blocking=False), "one status was made twice"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /status?%s HTTP/1.1\r\nHost: x\r\n\r\n",
        b"%s /status HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /status %s\r\n\r\n",
        b"GET /status HTTP/1.1\r\n%s\r\n\r\n",
        b"GET /status HTTP/1.1\r\nContent-Length: %s\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n",
        b"%s\r\n\r\n",
    ],
)
def test_an_answer_names_no_software_and_repeats_no_input(port: int, request_bytes: bytes) -> None:
    answer = exchange(port, request_bytes % b"<mark\x1b[31m>")
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1."), answer
    assert b"\r\nx-content-type-options: nosniff" in head
    assert b"mark" not in answer
    assert not any(word in head for word in (b"server", b"aiohttp", b"python"))


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/healthz", "/status", "/metrics"])
def test_head_has_no_body_and_connections_end(port: int, path: str) -> None:
    code, head, body = get(port, path, "HEAD")
    assert code == 200
    assert body == ""
    assert int(head.partition("Content-Length: ")[2].split()[0]) > 0
    assert "Connection: close" in head


def test_the_page_may_load_nothing_from_elsewhere(port: int) -> None:
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        code, head, body = get(port, path)
        assert code == 200
        assert f"Content-Type: {kind}; charset=utf-8" in head
        assert "default-src 'none'" in head
        assert "nosniff" in head
        assert not re.search(
            r"https?://(?!www\.w3\.org/2000/svg)|innerHTML|insertAdjacent|eval\(|style=", body
        )


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_other_methods_are_refused(port: int, method: str) -> None:
    assert get(port, "/status", method)[0] in {400, 405}


def test_unknown_paths_are_not_found(port: int) -> None:
    for path in ("/nothing", "/../etc/passwd", "//", "/status/", "/%2e%2e/", "/page.py", "/__init__.py"):
        code, _, body = get(port, path)
        assert code == 404
        assert "passwd" not in body


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /status HTTP/1.1\r\nHost: a\r\nHost: b\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200 + b"\r\n\r\n",
        b"GET /status HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET " + b"\xff\xfe" + b" HTTP/1.1\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"GET /status HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % n for n in range(1000)) + b"\r\n",
    ],
)
def test_bad_requests_do_no_harm(
    view: FakeView, request_bytes: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with endpoint(view, limits=Limits(connection_seconds=0.3)) as port:  # some of them wait for more
        answer = exchange(port, request_bytes)
        assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
        assert eventually(
            lambda: exchange(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").endswith(b"ok\n")
        )
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("sent", [b"", b"GET /status HT", b"GET /status HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_head_that_never_ends_is_cut(view: FakeView, sent: bytes) -> None:
    with endpoint(view, limits=Limits(connection_seconds=0.1)) as port:
        assert exchange(port, sent) == b""


def test_one_connection_too_many_ends_the_oldest_that_asks_nothing(
    view: FakeView,
) -> None:
    asked, made = threading.Event(), threading.Event()

    async def slow() -> dict[str, Json]:
        asked.set()
        await asyncio.to_thread(made.wait, 60)
        return {}

    view.make_status = slow
    with (
        endpoint(view, limits=Limits(connections=3, connection_seconds=600)) as port,
        socket.create_connection(("127.0.0.1", port), timeout=60) as asking,
    ):
        asking.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
        assert asked.wait(60)
        # They are accepted in their order.
        idle = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(4)]
        assert [get(port, "/healthz")[0] for _ in range(2)] == [200, 200], "idle connections keep probes out"
        assert all(received(each) == b"" for each in idle[:3])
        made.set()
        assert asking.recv(12) == b"HTTP/1.1 200"
        for each in idle:
            each.close()


def test_a_fault_of_ours_is_500_and_the_rest_goes_on(view: FakeView, port: int) -> None:
    async def broken() -> dict[str, Json]:
        raise ZeroDivisionError

    view.make_status = broken
    assert get(port, "/status")[0] == 500
    assert get(port, "/healthz")[0] == 200


def test_it_serves_ipv6(port: int) -> None:
    with socket.create_connection(("::1", port), timeout=60) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200")


def test_metrics_serve_for_a_second(view: FakeView, port: int, clock: ManualClock) -> None:
    """Writing them blocks the loop for 20 ms with 100 rules, and ten times as long with redirect mode's 1,000."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        flood = list(pool.map(lambda _: get(port, "/metrics"), range(200)))
    assert {code for code, *_ in flood} == {200}
    assert len({body for _, _, body in flood}) == 1  # each snapshot has a number of its own
    view.allowed.value = 42
    clock.advance(1.0)
    assert 'requests_total{reason="rule",verdict="allowed"} 42.0' in get(port, "/metrics")[2]


def test_metrics_have_the_values_of_the_snapshot(view: FakeView, port: int) -> None:
    view.allowed.value = 41
    code, head, body = get(port, "/metrics")
    assert code == 200
    assert "Content-Type: text/plain; version=0.0.4; charset=utf-8" in head
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }
    name = "egress_router_requests_total"
    assert samples[name, (("reason", "rule"), ("verdict", "allowed"))] == 41
    assert samples["egress_router_connect_seconds_bucket", (("le", "0.005"),)] == 1
    assert samples["egress_router_connect_seconds_bucket", (("le", "+Inf"),)] == 2
    assert samples["egress_router_connect_seconds_count", ()] == 2
    assert samples["egress_router_connect_seconds_sum", ()] == pytest.approx(99.003)
    assert samples["egress_router_upstream_up", (("address", "203.0.113.9:443"),)] == 1
