"""A mode as small as can be, run as a program: greets with its process id and its rules' word, then echoes.

A rule is `PORT WORD`. With `--worker FD` it is a worker alone, whose supervisor is a test.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from egress_router import log
from egress_router.commands.exit_status import exit_with
from egress_router.commands.services import run_service
from egress_router.grammar.lines import Problems, rule_lines
from egress_router.service import worker
from egress_router.service.mode import Json, Mode, WorkerContext
from egress_router.settings.common import ProxySettings
from egress_router.settings.table import read_all
from egress_router.settings.variables import RulesSource

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Rules:
    words: dict[int, str]


def parse(source: str, text: str) -> Rules:
    problems = Problems(source)
    words = {}
    for line in rule_lines(text):
        port, _, word = line.text.partition(" ")
        if port.isdecimal() and word:
            words[int(port)] = word
        else:
            problems.add(line, "expected PORT WORD")
    problems.raise_if_any()
    if not words:
        problems.add(None, "no rules")
        problems.raise_if_any()
    return Rules(words)


class Echo(asyncio.Protocol):
    def __init__(self, server: EchoServer, greeting: bytes) -> None:
        self.server = server
        self.greeting = greeting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.server.transports.add(self.transport)
        self.transport.write(self.greeting)

    def data_received(self, data: bytes) -> None:
        if data == b"hang\n":
            while True:
                pass
        self.server.echoed.value += len(data)
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.transports.discard(self.transport)
        self.server.open -= 1


class EchoServer:
    def __init__(self, context: WorkerContext, rules: Rules) -> None:
        self.context = context
        self.rules = rules
        self.listeners: dict[int, socket.socket] = {}
        self.transports: set[asyncio.Transport] = set()
        self.open = 0
        self.greeted = context.registry.counter("connections_total", "Connections accepted.")
        self.echoed = context.registry.counter("bytes_total", "Bytes echoed.", direction="sent")
        self.rendered = context.registry.counter(
            "status_rendered_total", "Times this worker told its status."
        )
        self.denied: list[Json] = []

    def apply(self, rules: Rules) -> None:
        if "breaks" in rules.words.values():
            raise ZeroDivisionError("rules that break")
        self.rules = rules

    def listen(self, listeners: Mapping[int, socket.socket]) -> None:
        for port in self.listeners.keys() - listeners.keys():
            self.end(port)
        for port in listeners.keys() - self.listeners.keys():
            self.listeners[port] = listeners[port]
            self.context.loop.add_reader(listeners[port], partial(self.accept, port))

    def end(self, port: int) -> None:
        self.context.loop.remove_reader(self.listeners[port])
        self.listeners.pop(port).close()

    def accept(self, port: int) -> None:
        while True:
            try:
                client, peer = self.listeners[port].accept()
            except BlockingIOError:
                return
            client.setblocking(False)
            self.open += 1
            self.greeted.value += 1
            greeting = f"{os.getpid()} {self.rules.words[port]}\n".encode()
            if os.environ.get("ECHO_LOG"):
                log.records().info("connection", client=peer[0], padding="x" * 1000)
            self.denied.append({"time": 1.0, "client": peer[0], "target": "t", "rule": None, "reason": "r"})
            self.context.loop.create_task(
                self.context.loop.connect_accepted_socket(partial(Echo, self, greeting), client)
            )

    def stop_accepting(self) -> None:
        for port in list(self.listeners):
            self.accept(port)
            self.end(port)

    def open_connections(self) -> int:
        return self.open

    def close_all(self) -> None:
        for transport in self.transports:
            transport.abort()

    def status(self) -> dict[str, Json]:
        self.rendered.value += 1
        rules: list[Json] = [
            {"line": line, "text": f"{port} {word}", "hits": 1}
            for line, (port, word) in enumerate(self.rules.words.items(), start=1)
        ]
        return {"rules": rules, "denied": self.denied[-50:], "upstreams": []}


def main(arguments: list[str]) -> int:
    settings = read_all(ProxySettings, os.environ)
    path = os.environ.get("ECHO_RULES_FILE")
    source = RulesSource("ECHO_RULES", os.environ.get("ECHO_RULES", ""), Path(path) if path else None)
    mode = Mode(
        "echo",
        parse,
        lambda rules: frozenset(rules.words),
        EchoServer,
        lambda rules: tuple(f"{port} {word}" for port, word in rules.words.items()),
    )
    if arguments:
        return worker.run(mode, settings, socket.socket(fileno=int(arguments[1])))
    return run_service(mode, settings, source)


if __name__ == "__main__":
    exit_with(partial(main, sys.argv[1:]))
