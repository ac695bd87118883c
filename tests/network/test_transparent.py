"""Transparent ports under programs that were not written here, with a certificate that they check."""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from egress_router.lab.network import ROUTER, SOURCE
from tests.network.administration import fetch
from tests.network.test_http_tools import output, run, served
from tests.unit.http_proxy.names import know
from tests.unit.http_proxy.origin import counted, proxy
from tests.unit.tls.hellos import hello, sni
from tests.waiting import WAIT_SECONDS, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from egress_router.lab.network import Laboratory

NAME = "www.example.com"
RULES = f"{NAME}\n"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for the name in one file."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    command += ["-keyout", str(folder / "key"), "-out", str(folder / "crt")]
    subprocess.run(command, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "key").read_text() + (folder / "crt").read_text())
    return both


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small").write_text("hello")
    (tmp_path / "large").write_bytes(bytes(range(256)) * 8192)
    return tmp_path


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, www_example_com="127.0.0.1", other_example="127.0.0.1")


def test_curl_without_any_proxy_setting_over_tls(folder: Path, certificate: Path) -> None:
    with served(folder, certificate) as url:
        origin_port = url.rpartition(":")[2]
        with proxy(RULES, TRANSPARENT_PORTS=f"1443:{origin_port}") as (running, _):
            there = f"127.0.0.1:{running.ports[1443]}"
            curl = ("curl", "-sS", "--fail", "--noproxy", "*", "--cacert", certificate)
            ways = ("--connect-to", f"{NAME}:443:{there}", "--connect-to", f"other.example:443:{there}")
            # The certificate is the origin's own: it is checked here.
            assert output(*curl, *ways, f"https://{NAME}/small", f"https://{NAME}/small") == b"hello" * 2
            assert output(*curl, *ways, "--tlsv1.2", "--tls-max", "1.2", f"https://{NAME}/small") == b"hello"
            assert output(*curl, *ways, f"https://{NAME}/large") == (folder / "large").read_bytes()
            refused = run(*curl, *ways, "https://other.example/small")
            assert refused.returncode == 35
            assert b"alert access denied" in refused.stderr
            assert counted(running, "transparent_refused_total", reason="no_rule") == 1


def test_openssl_says_what_the_alert_says(folder: Path, certificate: Path) -> None:
    with served(folder, certificate) as url:
        origin_port = url.rpartition(":")[2]
        with proxy(RULES, TRANSPARENT_PORTS=f"1443:{origin_port}") as (running, _):
            there = f"127.0.0.1:{running.ports[1443]}"
            client = (
                "openssl",
                "s_client",
                "-connect",
                there,
                "-CAfile",
                certificate,
                "-verify_return_error",
            )
            assert b"Verify return code: 0 (ok)" in output(
                *client, "-servername", NAME, "-verify_hostname", NAME
            )
            nameless = run(*client, "-noservername")
            assert nameless.returncode != 0
            assert b"unrecognized name" in nameless.stderr


def test_curl_without_any_proxy_setting_over_http(folder: Path) -> None:
    with served(folder) as url:
        origin_port = url.rpartition(":")[2]
        with proxy(RULES, TRANSPARENT_PORTS=f"1080:{origin_port}") as (running, _):
            there = f"127.0.0.1:{running.ports[1080]}"
            curl = ("curl", "-sS", "--noproxy", "*", "--connect-to", f"{NAME}:80:{there}")
            assert output(*curl, "--fail", f"http://{NAME}/small", f"http://{NAME}/small") == b"hello" * 2
            assert output(*curl, "--fail", "--http1.0", f"http://{NAME}/small") == b"hello"
            denied = output(*curl, "-w", "%{http_code}", "-H", "Host: other.example", f"http://{NAME}/small")
            assert denied.endswith(b"403")
            assert b"no rule allows it" in denied
            prior = run(*curl, "--http2-prior-knowledge", f"http://{NAME}/small")
            assert prior.returncode != 0
            assert counted(running, "transparent_refused_total", reason="http2_prior_knowledge") == 1


def test_report_only_lets_through_what_the_list_denies(lab: Laboratory) -> None:
    lab.serve(["http:8000", "443"])
    lab.name({NAME: {"addresses": ["203.0.113.25"]}})
    lab.finish_setup({"EGRESS_ROUTER_MODE": "http-proxy"})
    environment = {
        "EGRESS_HTTP_PROXY_DESTINATION": f"!{NAME}",
        "EGRESS_HTTP_PROXY_TRANSPARENT_PORTS": "8000,8443:443",
        "EGRESS_HTTP_PROXY_REPORT_ONLY": "1",
    }
    with lab.proxy("http-proxy", environment, 8080):
        for port, first in (
            (8000, f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()),
            (8443, hello(sni(NAME.encode()))),
        ):
            with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
                sock.settimeout(WAIT_SECONDS)
                sock.connect((ROUTER, port))
                sock.sendall(first)
                with sock.makefile("rb") as stream:
                    seen = next(line for line in stream if b"203.0.113.25" in line)
                assert f'"source": "{SOURCE}"'.encode() in seen
        would = 'egress_router_requests_total{reason="rule",verdict="reported"} 2.0'
        assert eventually(lambda: would in fetch(lab.router, "/metrics")), fetch(lab.router, "/metrics")
