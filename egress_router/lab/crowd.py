"""Many clients in one process: `python -m egress_router.lab.crowd ADDRESS PORT RATE HELD`, until input ends.

HELD connections stay open and exchange lines all the time; RATE new ones begin each second. At the end it
prints the results as one JSON line. The server is `egress_router.lab.server`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

_LINE_SECONDS = 0.2  # from one line of a held connection to the next
_WAIT_SECONDS = 30.0  # for everything; a lost SYN is sent again meanwhile, and shows as a slow connection
# New connections. A busy machine falls behind RATE instead of failing; the server's queue holds 1,024.
_MAX_AT_ONCE = 500


@dataclass
class Crowd:
    """The results: answers by server, failures by error, milliseconds until connected."""

    answered: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    milliseconds: list[float] = field(default_factory=list)
    words: int = 0  # lines that came back
    broken: Counter[str] = field(default_factory=Counter)  # held connections, by error

    def summary(self) -> dict[str, object]:
        """Return the results for JSON."""
        times = sorted(self.milliseconds) or [0.0]
        return {
            "answered": dict(self.answered),
            "failed": dict(self.failed),
            "p50_ms": round(statistics.median(times), 2),
            "p99_ms": round(times[int(0.99 * (len(times) - 1))], 2),
            "slowest_ms": round(times[-1], 2),
            "words": self.words,
            "broken": dict(self.broken),
        }


async def _once(crowd: Crowd, address: str, port: int) -> None:
    begun, step = time.monotonic(), "connect"
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            reader, writer = await asyncio.open_connection(address, port)
            crowd.milliseconds.append((time.monotonic() - begun) * 1000)
            step = "read"
            try:
                crowd.answered[await _read_server(reader)] += 1
            finally:
                writer.close()
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        crowd.failed[f"{step}: {type(error).__name__} {error}".rstrip()] += 1


async def _read_server(reader: asyncio.StreamReader) -> str:
    line: dict[str, str] = json.loads(await reader.readline())
    return line["server"]


async def _hold(crowd: Crowd, address: str, port: int, ended: asyncio.Event) -> None:
    """Hold one connection, and exchange lines with the server until the end."""
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            reader, writer = await asyncio.open_connection(address, port)
            await _read_server(reader)
        while True:
            is_last = ended.is_set()
            async with asyncio.timeout(_WAIT_SECONDS):
                writer.write(b"still here\n")
                if await reader.readline() != b"still here\n":
                    raise ConnectionResetError("the stream ended")
            crowd.words += 1
            if is_last:
                writer.close()
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), _LINE_SECONDS)
    except (OSError, ValueError) as error:
        crowd.broken[f"{type(error).__name__}: {error}"] += 1


async def _run(address: str, port: int, rate: float, held: int) -> Crowd:
    crowd, ended = Crowd(), asyncio.Event()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    end = loop.create_task(reader.read())
    holding = [loop.create_task(_hold(crowd, address, port, ended)) for _ in range(held)]
    tasks: set[asyncio.Task[None]] = set()
    due = time.monotonic()
    while not end.done():
        if len(tasks) < _MAX_AT_ONCE:
            task = loop.create_task(_once(crowd, address, port))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    ended.set()
    await asyncio.gather(*tasks, *holding)
    return crowd


def main() -> None:
    """Run until standard input ends."""
    address, port, rate, held = sys.argv[1:]
    crowd = asyncio.run(_run(address, int(port), float(rate), int(held)))
    print(json.dumps(crowd.summary()), flush=True)


if __name__ == "__main__":
    main()
