"""A client that opens a connection every moment, and prints which was answered and when it had begun."""

from __future__ import annotations

import asyncio
import socket
import sys
import time

PORT = 80
_MOST = 4096


async def _once(address: str, seconds: float) -> None:
    begun = time.monotonic()
    loop = asyncio.get_running_loop()
    # A socket as it is: asyncio's streams would take several times the time of this and of what is tried.
    with socket.socket() as wire:
        wire.setblocking(False)
        try:
            async with asyncio.timeout(seconds):
                await loop.sock_connect(wire, (address, PORT))
                answered = await loop.sock_recv(wire, _MOST)  # all of it: else the end would be a reset
        except OSError:  # TimeoutError is one
            return
    if answered:
        sys.stdout.write(f"{address} {begun!r}\n")
        sys.stdout.flush()


async def _knock(every: float, seconds: float, addresses: list[str]) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    tasks: set[asyncio.Task[None]] = set()
    due = time.monotonic()
    while True:
        for address in addresses:
            task = asyncio.create_task(_once(address, seconds))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        due = max(due + every, time.monotonic())  # what a busy machine held up is not made up for
        await asyncio.sleep(due - time.monotonic())


def main() -> None:
    """Knock until killed: seconds between two connections, seconds for one, addresses."""
    every, seconds, *addresses = sys.argv[1:]
    asyncio.run(_knock(float(every), float(seconds), addresses))


if __name__ == "__main__":
    main()
