"""EGRESS_LOG_LEVEL=debug tells the life of each connection, and nothing that is secret."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from egress_router import log
from egress_router.http_proxy.accounting import Accounting
from egress_router.names.answer import Failure
from tests.unit.http_proxy.names import know
from tests.unit.http_proxy.origin import OK, Client, answering, origin, proxy, worker_of
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "hunter2"


class Lines(logging.Handler):
    """Keeps events as the lines that they are written as."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def events(self, name: str = "") -> list[str]:
        """Return the sentences of the events, of those that hold `name`."""
        texts = (each.partition(" http_proxy: ")[2] for each in self.lines if name in f"{each} ")
        return [text.partition("=")[0].rpartition(" ")[0] for text in texts]

    def of(self, sentence: str) -> dict[str, str]:
        """Return the fields of the one event with this sentence."""
        (line,) = (each for each in self.lines if f" http_proxy: {sentence} " in each)
        words = line.partition(f"{sentence} ")[2].split(" ")
        return dict(each.split("=", 1) for each in words if "=" in each)


def written(name: str, level: str) -> Iterator[Lines]:
    """Keep what a logger writes, as the program sets it up."""
    logger, made = logging.getLogger(name), Lines()
    before = logger.handlers[:], logger.level, logger.propagate
    if name == "egress_records":
        log.configure_records(made, "text")
    else:
        log.configure(made, "text", level)
    try:
        yield made
    finally:
        logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture
def debug() -> Iterator[Lines]:
    yield from written("egress_router", "debug")


@pytest.fixture
def access() -> Iterator[Lines]:
    yield from written("egress_records", "debug")


def test_the_life_of_a_tunnel(debug: Lines, access: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, a_example="127.0.0.9 127.0.0.1", slow=True)
    with origin(answering(OK)) as server, proxy("a.example\n") as (_, port):
        with Client(port) as client:
            client.send(f"CONNECT a.example:{server.port} HTTP/1.1\r\nHost: a.example\r\n\r\n")
            client.head()
            client.send("GET / HTTP/1.1\r\n\r\n")
            assert client.answer()[1] == b"ok"
            client_port = str(client.sock.getsockname()[1])
        until(lambda: "connection ended" in debug.events())
    identity = debug.of("connection accepted")["id"]
    assert debug.events(f" id={identity} ") == [
        "connection accepted",
        "request read",
        "name asked",
        "name answered",
        "request decided",
        "attempt failed",
        "attempt connected",
        "tunnel begins",
        "request ended",
        "connection ended",
    ]
    assert debug.of("connection accepted")["client_port"] == client_port
    assert debug.of("request read") == {
        "id": identity,
        "connection": identity,
        "method": "CONNECT",
        "host": "a.example",
        "port": str(server.port),
    }
    assert debug.of("name answered")["addresses"] == "127.0.0.9,127.0.0.1"
    decided = debug.of("request decided")
    assert (decided["verdict"], decided["rule"], decided["reason"]) == ("allowed", "a.example", "rule")
    failed = debug.of("attempt failed")
    assert (failed["address"], failed["reason"]) == ("127.0.0.9", "refused")
    connected = debug.of("attempt connected")
    assert (connected["address"], connected["source"]) == ("127.0.0.1", "127.0.0.1")
    ended = debug.of("request ended")
    assert (ended["sent"], ended["received"], ended["reason"]) == ("18", str(len(OK)), "finished")
    assert float(ended["seconds"]) > 0
    assert {each.partition("id=")[2].partition(" ")[0] for each in access.lines} == {identity}


def test_requests_on_one_connection(debug: Lines) -> None:
    with origin(answering(OK, OK)) as server, proxy() as (_, port):
        with Client(port) as client:
            for _ in range(2):
                client.send(f"GET http://{server.authority}/ HTTP/1.1\r\nHost: x\r\n\r\n")
                client.answer()
        until(lambda: "connection ended" in debug.events())
    assert debug.events() == [
        "connection accepted",
        "request read",
        "request decided",
        "attempt connected",
        "exchange begins",
        "request ended",
        "request read",
        "request decided",
        "open connection used again",
        "exchange begins",
        "request ended",
        "connection ended",
    ]
    ended = debug.of("connection ended")
    assert (ended["reason"], ended["requests"]) == ("client_closed", "2")


@pytest.mark.parametrize(
    ("sent", "events"),
    [
        (b"", []),
        (b"CONNECT b.example:443 HTTP/1.1\r\nHost: x\r\n\r\n", ["request read", "request decided", "request ended"]),
        (
            b"CONNECT gone.a.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
            ["request read", "name asked", "name not answered", "request ended"],
        ),
        (
            b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: x\r\n\r\n",
            ["request read", "request decided", "attempt failed", "request failed", "request ended"],
        ),
        (b"nonsense\x1b[2J\r\nnew: line\r\n\r\n", ["request refused"]),
    ],
)  # fmt: skip
def test_other_lives(debug: Lines, monkeypatch: pytest.MonkeyPatch, sent: bytes, events: list[str]) -> None:
    know(monkeypatch, gone_a_example=Failure.NO_SUCH_NAME)
    with proxy("!b.example\n*.a.example\n127.0.0.1\n") as (_, port):
        with Client(port) as client:
            client.send(sent)
            client.end()
            client.rest()
        until(lambda: "connection ended" in debug.events())
    assert debug.events() == ["connection accepted", *events, "connection ended"]
    assert all(each.isprintable() for each in debug.lines)
    assert len({each.partition(" id=")[2].partition(" ")[0] for each in debug.lines}) == 1


def test_nothing_secret_is_told(debug: Lines) -> None:
    fields = (
        f"Authorization: Bearer {SECRET}",
        f"Proxy-Authorization: Basic {SECRET}",
        f"Cookie: a={SECRET}",
        f"X-Api-Key: {SECRET}",
    )
    head = "\r\n".join(["Host: x", *fields, "", ""])
    with origin(answering(OK)) as server, proxy() as (_, port):
        for text in (
            f"GET http://{server.authority}/{SECRET}?token={SECRET} HTTP/1.1\r\n{head}",
            f"CONNECT {server.authority} HTTP/1.1\r\n{head}",
            f"GET http://{SECRET}:{SECRET}@{server.authority}/ HTTP/1.1\r\n{head}",
        ):
            with Client(port) as client:
                client.send(text)
                client.head()
        until(lambda: debug.events().count("connection ended") == 3)
    assert not [each for each in debug.lines if SECRET in each]


@pytest.mark.parametrize("level", ["info", "debug"])
def test_without_debug_nothing_of_it_is_there(level: str) -> None:
    """It costs one check for each connection: the accounting is the plain one."""
    for _ in written("egress_router", level):
        with proxy() as (running, port), Client(port):
            assert (type(worker_of(running).accounting) is Accounting) is (level == "info")
