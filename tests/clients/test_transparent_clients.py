"""Java's and Go's TLS, curl and openssl through a transparent port to nginx, whose certificate they check."""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.network.test_http_tools import accepts, output, run
from tests.ports import free_port
from tests.unit.http_proxy.names import know
from tests.unit.http_proxy.origin import Client, counted, proxy
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from egress_router.grammar.acl import AccessList
    from egress_router.settings.policy import Guarded
    from tests.serving import Running

HERE = Path(__file__).parent
NAME, OTHER, DENIED = "www.example.com", "api.example.com", "denied.example.com"
RULES = f"!{DENIED}\n*.example.com\n"


@dataclass(frozen=True)
class Chain:
    """A certificate authority, and a server's files: its key, and its certificate with the intermediate one."""

    root: Path
    key: Path
    shown: Path


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("chain")

    def issue(name: str, extensions: str, issuer: str | None) -> None:
        new = f"openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name}"
        output(*new.split(), "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.csr")
        (folder / "extensions").write_text(extensions)
        by = f"-CA {issuer}.crt -CAkey {issuer}.key" if issuer else f"-signkey {name}.key"
        sign = f"openssl x509 -req -days 2 -in {name}.csr -out {name}.crt -extfile extensions -set_serial"
        words = (*sign.split(), str(abs(hash(name))), *by.split())
        subprocess.run(words, check=True, capture_output=True, cwd=folder)

    issue("root", "basicConstraints=critical,CA:true\n", None)
    issue("between", "basicConstraints=critical,CA:true,pathlen:0\n", "root")
    issue("server", f"subjectAltName=DNS:{NAME},DNS:{OTHER},DNS:{DENIED}\n", "between")
    shown = folder / "shown.pem"
    shown.write_text((folder / "server.crt").read_text() + (folder / "between.crt").read_text())
    return Chain(folder / "root.crt", folder / "server.key", shown)


@dataclass(frozen=True)
class Way:
    """A router's port, which leads to nginx; `url` has the name in it, and that port."""

    running: Running[Guarded[AccessList]]
    port: int
    root: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, name: str = NAME) -> str:
        return f"https://{name}:{self.port}/"

    def tunnels(self) -> float:
        """Return how many connections have been allowed."""
        return counted(self.running, "requests_total", verdict="allowed")


@contextlib.contextmanager
def nginx(folder: Path, *, listen: str, more: str = "") -> Iterator[int]:
    """Run nginx, which says the protocol and the number of the request on its connection."""
    port = free_port()
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"user root; daemon off; master_process off; pid {folder}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off; {paths} default_type text/plain; {more}\n"
        f"server {{ listen 127.0.0.1:{port} {listen};\n"
        'location / { return 200 "$host $server_protocol $connection_requests\\n"; } } }\n'
    )
    process = subprocess.Popen(
        ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: accepts(port))
        yield port
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chain: Chain) -> Iterator[Way]:
    know(
        monkeypatch, www_example_com="127.0.0.1", api_example_com="127.0.0.1", denied_example_com="127.0.0.1"
    )
    shown = f"ssl_certificate {chain.shown}; ssl_certificate_key {chain.key};"
    with (
        nginx(tmp_path, listen="ssl http2", more=shown) as port,
        proxy(RULES, TRANSPARENT_PORTS=f"1443:{port}") as (running, _),
    ):
        yield Way(running, running.ports[1443], chain.root)


@pytest.fixture(scope="session")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("go")
    here = {"GOCACHE": str(folder / "cache"), "GO111MODULE": "off", "CGO_ENABLED": "0", "GOFLAGS": ""}
    command = ["go", "build", "-o", str(folder / "fetch"), str(HERE / "fetch.go")]
    subprocess.run(command, check=True, env={**os.environ, **here}, timeout=300)
    return folder / "fetch"


@pytest.fixture(scope="session")
def java_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("java")
    subprocess.run(["javac", "-d", str(folder), str(HERE / "Fetch.java")], check=True, timeout=300)
    return folder


class Fetch(Protocol):
    """Fetches URLs with HTTP/1.1 or HTTP/2, and prints a line for each."""

    def __call__(self, way: Way, protocol: str, urls: Sequence[str], /) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end."""


@pytest.fixture(params=["go", "java"])
def fetch(request: pytest.FixtureRequest, tmp_path: Path) -> Fetch:
    """A program in another language, with its own TLS."""
    if request.param == "go":
        program: Path = request.getfixturevalue("go_program")

        def with_go(way: Way, protocol: str, urls: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
            words = {"1.1": "http1", "2": "http2"}
            return run(program, way.root, way.address, words[protocol], *urls)

        return with_go
    classes: Path = request.getfixturevalue("java_classes")
    hosts = tmp_path / "hosts"
    hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in (NAME, OTHER, DENIED)))

    def with_java(way: Way, protocol: str, urls: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
        words = {"1.1": "HTTP_1_1", "2": "HTTP_2"}
        java = ("java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", f"-Djdk.net.hosts.file={hosts}")
        return run(*java, "-cp", classes, "Fetch", way.root, words[protocol], *urls)

    return with_java


@pytest.mark.parametrize("protocol", ["1.1", "2"])
def test_java_and_go_talk_to_the_origin_through_one_connection(way: Way, fetch: Fetch, protocol: str) -> None:
    done = fetch(way, protocol, (way.url(),) * 3)
    assert done.returncode == 0, done.stderr.decode()
    lines = [line.split() for line in done.stdout.decode().splitlines()]
    version = "HTTP/2.0" if protocol == "2" else "HTTP/1.1"
    assert [line[2:] for line in lines] == [[NAME, version, str(number)] for number in (1, 2, 3)]
    assert way.tunnels() == 1


def test_java_and_go_are_told_what_the_list_denies(way: Way, fetch: Fetch) -> None:
    done = fetch(way, "1.1", (way.url(DENIED),))
    assert done.returncode != 0
    assert b"access denied" in done.stderr.replace(b"_", b" "), done.stderr.decode()
    assert counted(way.running, "transparent_refused_total", reason="rule") == 1


def test_each_name_has_a_connection_and_a_decision_of_its_own(way: Way, fetch: Fetch) -> None:
    done = fetch(way, "2", (way.url(), way.url(OTHER), way.url()))
    assert done.returncode == 0, done.stderr.decode()
    assert [line.split()[2] for line in done.stdout.decode().splitlines()] == [NAME, OTHER, NAME]
    assert way.tunnels() == 2


@pytest.mark.parametrize("protocol", ["1.1", "2"])
def test_curl_keeps_its_connection(way: Way, protocol: str) -> None:
    to = ("--connect-to", f"{NAME}:{way.port}:{way.address}")
    curl = ("curl", "-sS", "--fail", "--noproxy", "*", "--cacert", way.root, f"--http{protocol}", *to)
    version = "HTTP/2.0" if protocol == "2" else "HTTP/1.1"
    expected = "".join(f"{NAME} {version} {number}\n" for number in range(1, 6))
    assert output(*curl, *[way.url()] * 5).decode() == expected
    assert way.tunnels() == 1
    parallel = output(*curl, "--parallel", "--parallel-max", "4", *[way.url()] * 20).decode()
    assert parallel.count(f"{NAME} {version} ") == 20


def test_openssl_sees_the_chain_and_negotiates_with_the_origin(way: Way) -> None:
    client = ("openssl", "s_client", "-connect", way.address, "-servername", NAME, "-verify_return_error")
    said = output(*client, "-CAfile", way.root, "-verify_hostname", NAME, "-alpn", "h2,http/1.1").decode(
        errors="replace"
    )
    assert "Verify return code: 0 (ok)" in said
    assert "ALPN protocol: h2" in said
    assert "CN = between" in said or "CN=between" in said


def request(path: str = "/", name: str = NAME) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()


def test_requests_in_a_row_inside_tls(way: Way) -> None:
    client = ("openssl", "s_client", "-quiet", "-connect", way.address, "-servername", NAME)
    last = f"GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode()
    said = output(*client, "-CAfile", way.root, data=request() * 4 + last)
    assert [f"{NAME} HTTP/1.1 {number}\n".encode() in said for number in range(1, 6)] == [True] * 5


def test_requests_in_a_row_without_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each is decided, and the answers come in the order of the requests."""
    know(
        monkeypatch, www_example_com="127.0.0.1", api_example_com="127.0.0.1", denied_example_com="127.0.0.1"
    )
    with (
        nginx(tmp_path, listen="") as port,
        proxy(RULES, TRANSPARENT_PORTS=f"1080:{port}") as (running, _),
        Client(running.ports[1080]) as client,
    ):
        names = [NAME, NAME, OTHER, NAME, DENIED]
        client.send(b"".join(request(name=name) for name in names))
        for name in names[:-1]:
            head, body = client.answer()
            assert head.startswith("HTTP/1.1 200 ")
            assert body.startswith(f"{name} HTTP/1.1 ".encode())
        assert client.answer()[0].startswith("HTTP/1.1 403 ")
