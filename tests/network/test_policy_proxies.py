"""The egress policy in the proxies, with real packets: the reference document's example and its reverse."""

from __future__ import annotations

import contextlib
import re
import socket
from typing import TYPE_CHECKING, TypeAlias

import pytest

from egress_router.lab.network import ROUTER, SOURCE, Laboratory
from tests.network.administration import fetch
from tests.network.test_policy import (
    ALLOWED,
    ENTRIES,
    NAME,
    NAMED,
    OTHER,
    denied,
    name,
    policy,
    serve,
    status,
)
from tests.waiting import WAIT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

QUICK = {"EGRESS_DNS_TTL_FLOOR": "0.1", "EGRESS_DRAIN_SECONDS": "1", "EGRESS_WORKERS": "1"}
ALL_DENIED = [None, None, None]


@contextlib.contextmanager
def connected(lab: Laboratory, port: int, authority: str) -> Iterator[socket.socket]:
    """Connect to the router, through the HTTP proxy where there is an authority."""
    with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(WAIT_SECONDS)
        sock.connect((ROUTER, port))
        if authority:
            sock.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        yield sock


def said(sock: socket.socket) -> bytes:
    """Return what arrives until the server has said what it saw, or until the end of the stream."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while not data.endswith(b"}\n") and (more := sock.recv(4096)):
            data += more
    return data


def told(lab: Laboratory, port: int, authority: str = "") -> str:
    """Return everything that is said to a client that connects."""
    with connected(lab, port, authority) as sock:
        return said(sock).decode()


def server(text: str) -> str | None:
    """Return which server answered, None where none did. It must see the router's address."""
    found = re.search(r'"server": "([0-9.]+)", .*"source": "([0-9.]+)"', text)
    if found is None:
        return None
    assert found[2] == SOURCE
    return found[1]


def through_http(lab: Laboratory) -> list[str | None]:
    return [server(told(lab, 8080, each)) for each in (f"{ALLOWED}:80", f"{NAME}:443", f"{OTHER}:80")]


def through_dns(lab: Laboratory) -> list[str | None]:
    return [server(told(lab, port)) for port in (1080, 1443, 2080)]


Reaches: TypeAlias = "Callable[[Laboratory], list[str | None]]"
LINES = f"1080 {ALLOWED} 80\n1443 {NAME} 443\n2080 {OTHER} 80\n"
MODES: list[tuple[str, dict[str, str], int, Reaches]] = [
    ("http-proxy", {"EGRESS_HTTP_PROXY_DESTINATION": "*"}, 8080, through_http),
    ("dns-proxy", {"EGRESS_DNS_PROXY_DESTINATION": LINES}, 1080, through_dns),
]


@pytest.mark.parametrize(("mode", "rules", "port", "reaches"), MODES)
def test_the_example_of_the_document_and_its_reverse(
    lab: Laboratory, tmp_path: Path, mode: str, rules: dict[str, str], port: int, reaches: Reaches
) -> None:
    serve(lab)
    lab.finish_setup({"EGRESS_ROUTER_MODE": mode})
    path = tmp_path / "policy"
    path.write_text(policy(*ENTRIES))
    with lab.proxy(mode, {**QUICK, **rules, "EGRESS_POLICY_FILE": str(path)}, port):
        assert eventually(lambda: reaches(lab) == [ALLOWED, NAMED, None]), reaches(lab)
        assert eventually(lambda: denied(lab)["Deny 0.0.0.0/0"] > 0)
        counted = 'egress_router_policy_denied_total{entry="3"}'
        assert eventually(lambda: counted in fetch(lab.router, "/metrics"))
        path.write_text(policy(*reversed(ENTRIES)))
        assert eventually(lambda: reaches(lab) == ALL_DENIED)
        # A wrong one is refused, and the old one stays.
        path.write_text("kind: EgressNetworkPolicy\napiVersion: v2\n")
        assert eventually(lambda: "apiVersion 'v2'" in str(status(lab)))
        assert reaches(lab) == ALL_DENIED
        path.write_text(policy())
        assert eventually(lambda: reaches(lab) == [ALLOWED, NAMED, OTHER])


@pytest.mark.parametrize(("mode", "rules", "port"), [each[:3] for each in MODES])
def test_what_is_open_is_judged_again_when_the_policy_or_a_name_changes(
    lab: Laboratory, tmp_path: Path, mode: str, rules: dict[str, str], port: int
) -> None:
    serve(lab)
    lab.finish_setup({"EGRESS_ROUTER_MODE": mode})
    path = tmp_path / "policy"
    path.write_text(policy())
    ways = {"http-proxy": (8080, f"{ALLOWED}:80", 8080, f"{OTHER}:80"), "dns-proxy": (1080, "", 2080, "")}
    kept_port, kept_at, lost_port, lost_at = ways[mode]
    with (
        lab.proxy(mode, {**QUICK, **rules, "EGRESS_POLICY_FILE": str(path)}, port),
        connected(lab, kept_port, kept_at) as kept,
        connected(lab, lost_port, lost_at) as first,
        connected(lab, lost_port, lost_at) as second,
    ):
        assert [server(said(each).decode()) for each in (kept, first, second)] == [ALLOWED, OTHER, OTHER]
        del second
        path.write_text(policy({"type": "Deny", "to": {"cidrSelector": f"{OTHER}/32"}}))
        assert said(first) == b""
        # The name gets another address; the policy's text stays the same.
        path.write_text(policy({"type": "Deny", "to": {"dnsName": NAME}}))
        assert eventually(lambda: server(told(lab, lost_port, lost_at)) == OTHER)
        with connected(lab, lost_port, lost_at) as again:
            assert server(said(again).decode()) == OTHER
            name(lab, OTHER)
            assert said(again) == b""
        kept.sendall(b"x}\n")
        assert said(kept) == b"x}\n"


def test_a_denied_request_is_told_which_entry_denies_it(lab: Laboratory) -> None:
    serve(lab)
    lab.finish_setup({"EGRESS_ROUTER_MODE": "http-proxy"})
    environment = {**QUICK, "EGRESS_HTTP_PROXY_DESTINATION": "*", "EGRESS_POLICY": policy(*ENTRIES)}
    with lab.proxy("http-proxy", environment, 8080):
        answer = told(lab, 8080, f"{OTHER}:80")
    assert answer.startswith("HTTP/1.1 403 ")
    assert "policy entry 3 (Deny 0.0.0.0/0) denies it" in answer


def test_report_only_lets_pass_what_the_policy_denies_and_counts_it(lab: Laboratory) -> None:
    serve(lab)
    lab.finish_setup({"EGRESS_ROUTER_MODE": "http-proxy"})
    environment = {
        **QUICK,
        "EGRESS_HTTP_PROXY_DESTINATION": "*",
        "EGRESS_HTTP_PROXY_REPORT_ONLY": "1",
        "EGRESS_POLICY": policy(*ENTRIES),
    }
    with lab.proxy("http-proxy", environment, 8080):
        assert server(told(lab, 8080, f"{OTHER}:80")) == OTHER
        reported = 'egress_router_requests_total{reason="policy",verdict="reported"} 1.0'
        assert eventually(lambda: reported in fetch(lab.router, "/metrics"))
        assert denied(lab)["Deny 0.0.0.0/0"] == 1
