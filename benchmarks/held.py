"""Holds many TCP connections open, as server or as client, and reports which are alive.

`python -m benchmarks.held serve ADDRESS PORT` prints `ready`, and for each line that it reads how many
connections are open, by source. `… open SOURCE ADDRESS PORT N` prints how many it could open and how many
not, and for each line that it reads how many of them echo a byte.

The descriptors of a process are limited, so several run side by side: servers share the port (SO_REUSEPORT).
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import sys
from collections import Counter

_WAIT_SECONDS = 60.0
_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; Python has no name for it before 3.12
_BATCH = 64


def serve(address: str, port: int) -> None:
    """Accept and echo until standard input ends."""
    waiting = selectors.EpollSelector()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((address, port))
    listener.listen(4096)
    listener.setblocking(False)
    waiting.register(listener, selectors.EVENT_READ)
    waiting.register(sys.stdin, selectors.EVENT_READ)
    held: dict[socket.socket, str] = {}
    print("ready", flush=True)
    while True:
        for key, _ in waiting.select():
            sock = key.fileobj
            if sock is listener:
                _accept(listener, waiting, held)
            elif not isinstance(sock, socket.socket):
                if not sys.stdin.readline():
                    return
                print(json.dumps(Counter(held.values())), flush=True)
            elif not _echo(sock):
                waiting.unregister(sock)
                del held[sock]
                sock.close()


def _accept(listener: socket.socket, waiting: selectors.BaseSelector, held: dict[socket.socket, str]) -> None:
    for _ in range(_BATCH):
        try:
            sock, peer = listener.accept()
        except BlockingIOError:
            return
        held[sock] = peer[0]
        waiting.register(sock, selectors.EVENT_READ)


def _echo(sock: socket.socket) -> bool:
    """Send back what came; return False if the connection has ended."""
    try:
        data = sock.recv(64)
        return bool(data) and sock.send(data) == len(data)
    except OSError:
        return False


def hold(source: str, address: str, port: int, count: int) -> None:
    """Open `count` connections from one address, and keep them until standard input ends."""
    held = []
    for _ in range(count):
        sock = socket.socket()
        sock.settimeout(_WAIT_SECONDS)
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        try:
            sock.bind((source, 0))
            sock.connect((address, port))
        except OSError:
            sock.close()
        else:
            held.append(sock)
    print(len(held), count - len(held), flush=True)
    while sys.stdin.readline():
        print(sum(map(_answers, held)), flush=True)


def _answers(sock: socket.socket) -> bool:
    try:
        sock.send(b"?")
        return sock.recv(1) == b"?"
    except OSError:
        return False


def main(words: list[str]) -> None:
    """Do what the command line says, with as many descriptors as this process may have."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    if words[0] == "serve":
        serve(words[1], int(words[2]))
    else:
        hold(words[1], words[2], int(words[3]), int(words[4]))


if __name__ == "__main__":
    main(sys.argv[1:])
