"""An external server that tells each client what it saw: `python -m egress_router.lab.server PORT…`.

TCP: one JSON line at once (`server`, `port`, `source`, `source_port`), then an echo of what it receives. On a
port written `http:8000`, the line is the body of the answer to each request. UDP: one JSON line a datagram.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from ipaddress import ip_address
from typing import TYPE_CHECKING, cast

from egress_router.grammar.address import unmapped
from egress_router.lab.loop_thread import serving

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_PKTINFO_ADDRESS = slice(0, 16)  # struct in6_pktinfo: the address, then the interface
_HEAD_LIMIT = 65536
# Connections that may wait for this process while the machine is busy; asyncio's default is 100. The kernel
# drops those beyond it, but their clients take them for open (SYN cookies).
_BACKLOG = 1024


def seen(server: tuple[str, int], client: tuple[str, int]) -> dict[str, str | int]:
    """Return what a server saw of one connection or datagram."""
    return {
        "server": str(unmapped(ip_address(server[0]))),
        "port": server[1],
        "source": str(unmapped(ip_address(client[0]))),
        "source_port": client[1],
    }


def _seen(writer: asyncio.StreamWriter) -> bytes:
    here = writer.get_extra_info("sockname")
    peer = writer.get_extra_info("peername")
    return json.dumps(seen(here[:2], peer[:2])).encode() + b"\n"


async def _tell_and_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        writer.write(_seen(writer))
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # the client closed the connection
    finally:
        writer.close()


async def _answer_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            body = _seen(writer)
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # the client closed the connection
    finally:
        writer.close()


def _answer_datagram(sock: socket.socket, port: int) -> None:
    _, ancillary, _, client = sock.recvmsg(65536, 128)
    data = next(
        data for level, kind, data in ancillary if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)
    )
    server = socket.inet_ntop(socket.AF_INET6, data[_PKTINFO_ADDRESS])
    client_address = cast("tuple[str, int]", client[:2])
    text = json.dumps(seen((server, port), client_address)).encode() + b"\n"
    # The answer leaves from the address that was asked, as the client expects it.
    sock.sendmsg([text], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, data)], 0, client)


async def _listen(words: Sequence[str], at_end: contextlib.ExitStack) -> None:
    loop = asyncio.get_running_loop()
    for word in words:
        kind, _, port_text = word.rpartition(":")
        port = int(port_text)
        answer = _answer_http if kind == "http" else _tell_and_echo
        listening = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        server = await asyncio.start_server(answer, sock=listening, limit=_HEAD_LIMIT, backlog=_BACKLOG)
        at_end.callback(server.close)
        sock = at_end.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.bind(("::", port))
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), _answer_datagram, sock, port)
        at_end.callback(loop.remove_reader, sock.fileno())


def in_thread(words: Sequence[str], namespace: Path) -> contextlib.AbstractContextManager[None]:
    """Serve these ports of a network namespace in a thread of this process, until the block ends."""
    at_end = contextlib.ExitStack()
    return serving(lambda: _listen(words, at_end), at_end.close, namespace)


async def _serve(words: Sequence[str]) -> None:
    with contextlib.ExitStack() as at_end:
        await _listen(words, at_end)
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1:]))
