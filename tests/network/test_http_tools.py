"""The HTTP proxy under programs that were not written here: clients, and nginx as the origin."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import http.server
import os
import socket
import ssl
import subprocess
import threading
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.ports import free_port
from tests.unit.http_proxy.origin import Client, Peer, origin, proxy
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_WEBSOCKET = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; what is uploaded comes back."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_PUT(self) -> None:
        if self.headers["Transfer-Encoding"]:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT  # noqa: N815


@contextlib.contextmanager
def served(folder: Path, certificate: Path | None = None) -> Iterator[str]:
    """Serve a folder on loopback; yields the URL."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Files, directory=str(folder))
    )
    server.daemon_threads = True
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"{scheme}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join(WAIT_SECONDS)
        server.server_close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", f"{path}.key", "-out", f"{path}.crt"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_text((path.parent / "both.pem.key").read_text() + (path.parent / "both.pem.crt").read_text())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = tmp_path / "files"
    files.mkdir()
    (files / "small").write_text("hello")
    (files / "large").write_bytes(os.urandom(5_000_000))
    return files


def run(*command: str | Path, data: bytes = b"", **environ: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [str(word) for word in command],
        input=data,
        capture_output=True,
        check=False,
        timeout=WAIT_SECONDS,
        # Nothing else: a machine may have its own certificates and proxies in the environment.
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C", **environ},
    )


def output(*command: str | Path, data: bytes = b"", **environ: str) -> bytes:
    done = run(*command, data=data, **environ)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return done.stdout


def test_curl_over_http(folder: Path) -> None:
    with served(folder) as url, proxy() as (_, port):
        curl = ("curl", "-sS", "--fail", "-x", f"http://127.0.0.1:{port}")
        assert output(*curl, f"{url}/small", f"{url}/small", f"{url}/small") == b"hello" * 3
        assert output(*curl, "--http1.0", f"{url}/small") == b"hello"
        assert output(*curl, "--proxytunnel", f"{url}/large") == (folder / "large").read_bytes()
        assert b"Content-Length: 5\r\n" in output(*curl, "-I", f"{url}/small")
        data = os.urandom(3_000_000)
        assert output(*curl, "--data-binary", "@-", f"{url}/", data=data) == data  # with Expect: 100-continue
        assert output(*curl, "-T", "-", f"{url}/put", data=data) == data  # chunked


def test_curl_over_https(folder: Path, certificate: Path) -> None:
    with served(folder, certificate) as url, proxy() as (running, port):
        curl = ("curl", "-sS", "--fail", "-x", f"http://127.0.0.1:{port}", "--cacert", certificate)
        assert output(*curl, f"{url}/large", f"{url}/small") == (folder / "large").read_bytes() + b"hello"
        running.apply("!127.0.0.0/8\n*\n")
        denied = run(*curl, f"{url}/small")
        assert denied.returncode in {22, 56}  # by the version of curl
        assert b"403" in denied.stderr


def test_wget(folder: Path, certificate: Path) -> None:
    with served(folder) as plain, served(folder, certificate) as secure, proxy() as (_, port):
        through = f"http://127.0.0.1:{port}"
        small = output("wget", "-qO-", f"{plain}/small", f"{plain}/small", http_proxy=through)
        assert small == b"hellohello"
        wget = ("wget", "-qO-", f"--ca-certificate={certificate}")
        assert output(*wget, f"{secure}/large", https_proxy=through) == (folder / "large").read_bytes()


def test_urllib(folder: Path, certificate: Path) -> None:
    with served(folder) as plain, served(folder, certificate) as secure, proxy() as (_, port):
        through = dict.fromkeys(("http", "https"), f"http://127.0.0.1:{port}")
        context = ssl.create_default_context(cafile=str(certificate))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler(through), urllib.request.HTTPSHandler(context=context)
        )
        for url in (plain, secure):
            with opener.open(f"{url}/small", timeout=WAIT_SECONDS) as answer:
                assert answer.read() == b"hello"


def test_git_over_https(tmp_path: Path, folder: Path, certificate: Path) -> None:
    work = tmp_path / "work"
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@a.example")
    output(*git, "init", "-q", work)
    (work / "file").write_text("versioned")
    output(*git, "-C", work, "add", "file")
    output(*git, "-C", work, "commit", "-qm", "first")
    output(*git, "clone", "-q", "--bare", work, folder / "repository.git")
    output(*git, "-C", folder / "repository.git", "update-server-info")
    with served(folder, certificate) as url, proxy() as (_, port):
        options = ("-c", f"http.proxy=http://127.0.0.1:{port}", "-c", f"http.sslCAInfo={certificate}")
        output("git", *options, "clone", "-q", f"{url}/repository.git", tmp_path / "clone")
    assert (tmp_path / "clone" / "file").read_text() == "versioned"


def test_apt(tmp_path: Path, folder: Path) -> None:
    (folder / "Packages").write_text(
        "Package: a\nVersion: 1\nArchitecture: all\nMaintainer: a <a@a.example>\nFilename: ./a.deb\nSize: 1\n"
        f"SHA256: {hashlib.sha256(b'x').hexdigest()}\nDescription: a\n"
    )
    for name in ("state/lists/partial", "cache/archives/partial", "etc/parts"):
        (tmp_path / name).mkdir(parents=True)
    with served(folder) as url, proxy() as (_, port):
        (tmp_path / "etc" / "sources.list").write_text(f"deb [trusted=yes] {url}/ ./\n")
        settings = {
            "Acquire::http::Proxy": f"http://127.0.0.1:{port}",
            "Acquire::Languages": "none",
            "APT::Sandbox::User": "",
            "APT::Architecture": "amd64",
            "APT::Update::Error-Mode": "any",
            "Dir::State": f"{tmp_path}/state",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": f"{tmp_path}/cache",
            "Dir::Etc::sourcelist": f"{tmp_path}/etc/sources.list",
            "Dir::Etc::sourceparts": f"{tmp_path}/etc/parts",
        }
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        output("apt-get", *options, "update")
        assert b"a/unknown 1 all" in output("apt", *options, "list", "-a", "a")


def frame(text: bytes, *, masked: bool) -> bytes:
    """A WebSocket text frame (RFC 6455 5.2)."""
    if not masked:
        return bytes([0x81, len(text)]) + text
    mask = b"\x01\x02\x03\x04"
    return bytes([0x81, 0x80 | len(text)]) + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(text))


def accepted(key: str) -> str:
    return base64.b64encode(hashlib.sha1((key + _WEBSOCKET).encode()).digest()).decode()  # noqa: S324


def test_a_websocket() -> None:
    def serve(peer: Peer) -> None:
        head = peer.read_until(b"\r\n\r\n").decode()
        key = next(line.partition(": ")[2] for line in head.split("\r\n") if "Key" in line)
        peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accepted(key).encode() + b"\r\n\r\n" + frame(b"welcome", masked=False)
        )
        data = peer.read_until(b"\x04")
        peer.send(frame(b"%d" % len(data), masked=False))
        peer.read_to_the_end()

    key = base64.b64encode(b"0123456789abcdef").decode()
    with origin(serve) as server, proxy() as (_, port), Client(port) as client:
        client.send(
            f"GET http://{server.authority}/chat HTTP/1.1\r\nHost: {server.authority}\r\nUpgrade: websocket\r\n"
            f"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert f"Sec-WebSocket-Accept: {accepted(key)}" in client.head()
        assert client.take(9) == frame(b"welcome", masked=False)
        client.send(frame(b"hello", masked=True))
        assert client.take(4) == frame(b"11", masked=False)


def accepts(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def nginx(folder: Path, tmp_path: Path) -> Iterator[str]:
    port = free_port()
    paths = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        # As root nginx gives its folders to its user, which a user namespace may not know.
        f"user root; daemon off; master_process off; pid {tmp_path}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log {tmp_path}/access.log; {paths}\n"
        f"gzip on; gzip_types *; gzip_min_length 1;\n"
        f"server {{ listen 127.0.0.1:{port}; root {folder}; chunked_transfer_encoding on; }} }}\n"
    )
    process = subprocess.Popen(
        ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: accepts(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


def test_nginx_as_the_origin(folder: Path, tmp_path: Path) -> None:
    with nginx(folder, tmp_path) as url, proxy() as (_, port):
        curl = ("curl", "-sS", "--fail", "-x", f"http://127.0.0.1:{port}")
        urls = [f"{url}/small"] * 20
        assert output(*curl, *urls) == b"hello" * 20
        assert output(*curl, "-r", "1-3", f"{url}/small") == b"ell"
        assert output(*curl, "--compressed", f"{url}/large") == (folder / "large").read_bytes()  # chunked
        missing = run(*curl, f"{url}/missing")
        assert missing.returncode == 22
        assert b"404" in missing.stderr
        tag = next(
            line for line in output(*curl, "-I", f"{url}/small").decode().splitlines() if "ETag" in line
        )
        head = output(*curl, "-i", "-H", tag.replace("ETag", "If-None-Match"), f"{url}/small")
        assert head.startswith(b"HTTP/1.1 304")
