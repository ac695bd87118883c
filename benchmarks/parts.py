"""Counts the instructions of each part of a request alone; other load does not change the figures at all.

    python -m benchmarks.parts     # needs valgrind with its headers, and a C compiler

For changes that are too small for `benchmarks.instructions`. The parts run in one process without a network,
under valgrind's callgrind, which is told to begin a new count for each part.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import socket
import subprocess
import sys
import tempfile
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router.clock import SYSTEM
from egress_router.grammar.acl import parse
from egress_router.http_proxy.access_control import AccessControl
from egress_router.http_proxy.access_log import AccessLog
from egress_router.http_proxy.accounting import Accounting
from egress_router.http_proxy.http1.exchange import Exchange
from egress_router.http_proxy.http1.forwarding import request_bytes, response_bytes
from egress_router.http_proxy.http1.request import parse_request, target_of
from egress_router.http_proxy.http1.response import parse_response
from egress_router.http_proxy.own_addresses import OwnAddresses
from egress_router.http_proxy.request_info import Who
from egress_router.http_proxy.upstream import Upstream, UpstreamPool
from egress_router.metrics import Registry
from egress_router.names.resolver import Resolver
from egress_router.policy.access_list import Own
from egress_router.relay.deadlines import Deadlines
from egress_router.relay.loop import PollerLoop
from egress_router.settings.http_proxy import read_http_proxy
from egress_router.settings.names import NamesSettings

if TYPE_CHECKING:
    from collections.abc import Callable

_TIMES = 300
_REQUESTS = """
#include <valgrind/callgrind.h>
void begin(void) { CALLGRIND_ZERO_STATS; }
void end(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }
"""
_RULES = "!192.0.2.0/24\n*.example\n*\n"
_FIELDS = b"User-Agent: curl/8\r\nProxy-Connection: Keep-Alive\r\n\r\n"
_GET = b"GET http://a.example/path HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\n" + _FIELDS
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: x\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 100\r\n\r\n" + b"x" * 100
)


def parts() -> dict[str, Callable[[], object]]:
    """Return the parts that are counted."""
    loop = PollerLoop()
    limits = read_http_proxy({"EGRESS_HTTP_PROXY_DESTINATION": _RULES}).limits
    registry = Registry()
    resolver = Resolver(NamesSettings(), registry)
    resolver.remember("a.example", (ip_address("198.51.100.1"),))
    own = OwnAddresses(frozenset({8080}), lambda: Own(frozenset(), frozenset()))
    control = AccessControl(loop, resolver, own, frozenset({443}), report_only=False)
    control.apply(parse("RULES", _RULES))
    accounting = Accounting(registry, AccessLog(everything=False), SYSTEM)
    who, head = Who("127.0.0.1", 1, 8080), parse_request(_GET, 100)
    target = target_of(head, None)
    decision = control.by_addresses(target, (ip_address("198.51.100.1"),), "a.example")
    answer = _ANSWER[: _ANSWER.index(b"\r\n\r\n") + 4]
    answer_head = parse_response(answer, b"GET", 100)
    near, far = socket.socketpair()
    pool = UpstreamPool(Deadlines(loop), 1.0)
    upstream = Upstream(pool, ("127.0.0.1", b"", None), near, loop.poller, ip_address("127.0.0.1"), 65_536)

    def exchange(get: bytes = _GET) -> None:
        read = parse_request(get, 100)
        made = Exchange(read, target_of(read, None), limits, lambda: b"")
        made.begin(b"", reused=False)
        made.from_origin(_ANSWER)

    def prepare() -> None:
        Exchange(head, target, limits, lambda: b"")

    def count() -> None:
        info = accounting.begun(who, head, target)
        accounting.decided(info, decision)
        accounting.connected(info, far)
        accounting.answered(info)
        accounting.closed(info, 200, 0, 100, "finished")

    return {
        "a GET and its answer, without I/O": exchange,
        "the same, with a query": lambda: exchange(_GET.replace(b"/path", b"/path?a=b")),
        "the same, with a cookie, too": lambda: exchange(
            _GET.replace(b"/path", b"/path?a=b").replace(b"Accept:", b"Cookie: a=b\r\nAccept:")
        ),
        "its exchange, prepared": prepare,
        "its head": lambda: parse_request(_GET, 100),
        "its target": lambda: target_of(head, None),
        "its head as it goes on": lambda: request_bytes(head, target, None),
        "its decision": lambda: control.by_addresses(target, decision.addresses, "a.example"),
        "its decision, made before": lambda: control.at_once(target),
        "its answer's head": lambda: parse_response(answer, b"GET", 100),
        "its answer's head as it goes on": lambda: response_bytes(
            answer_head, chunked=True, closing=False, date=lambda: b""
        ),
        "what is counted of it": count,
        "a look at an idle connection": upstream.is_quiet,
        "the time": SYSTEM.monotonic,
        "nothing": lambda: None,
    }


def run(folder: Path) -> None:
    """Run the parts; callgrind counts this process."""
    library = ctypes.CDLL(str(folder / "requests.so"))
    gc.disable()
    for name, part in parts().items():
        for _ in range(50):  # CPython specialises code that has run several times
            part()
        library.begin()
        for _ in range(_TIMES):
            part()
        library.end(name.encode())


def main() -> None:
    """Print the thousands of instructions of each part."""
    if len(sys.argv) > 1:
        run(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory(prefix="parts-") as text:
        folder = Path(text)
        (folder / "requests.c").write_text(_REQUESTS, encoding="ascii")
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-o", folder / "requests.so", folder / "requests.c"], check=True
        )
        subprocess.run(
            [
                *("valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={folder}/counts"),
                *(sys.executable, "-m", "benchmarks.parts", folder),
            ],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            check=True,
        )
        print(f"Python {sys.version.split()[0]}, thousand instructions")
        for path in sorted(folder.glob("counts.*"), key=lambda path: int(path.suffix[1:])):
            report = path.read_text(encoding="utf-8", errors="replace")
            name = re.search(r"^desc: Trigger: Client Request: (.*)$", report, re.MULTILINE)
            total = re.search(r"^(?:summary|totals): (\d+)$", report, re.MULTILINE)
            if name and total:
                print(f"{name[1]:36} {int(total[1]) / _TIMES / 1000:8.2f}")


if __name__ == "__main__":
    main()
