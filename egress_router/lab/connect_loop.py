"""A client that connects again and again; of each answered connection it prints address and start time."""

from __future__ import annotations

import asyncio
import socket
import sys
import time

PORT = 80
_MAX_BYTES = 4096


async def _once(address: str, seconds: float) -> None:
    begun = time.monotonic()
    loop = asyncio.get_running_loop()
    # A plain socket: asyncio's streams would use several times the processor time of this and of the router.
    with socket.socket() as sock:
        sock.setblocking(False)
        try:
            async with asyncio.timeout(seconds):
                await loop.sock_connect(sock, (address, PORT))
                answered = await loop.sock_recv(sock, _MAX_BYTES)  # all: to close with unread data is a reset
        except OSError:  # TimeoutError is an OSError
            return
    if answered:
        sys.stdout.write(f"{address} {begun!r}\n")
        sys.stdout.flush()


async def _connect_all(every: float, seconds: float, addresses: list[str]) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    tasks: set[asyncio.Task[None]] = set()
    due = time.monotonic()
    while True:
        for address in addresses:
            task = asyncio.create_task(_once(address, seconds))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        due = max(due + every, time.monotonic())  # turns that were missed are skipped
        await asyncio.sleep(due - time.monotonic())


def main() -> None:
    """Connect until killed. Arguments: seconds between two connections, timeout of each, addresses."""
    every, seconds, *addresses = sys.argv[1:]
    asyncio.run(_connect_all(float(every), float(seconds), addresses))


if __name__ == "__main__":
    main()
