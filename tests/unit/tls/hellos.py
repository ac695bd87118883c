"""First flights of real clients, recorded on loopback from the programs that Debian 12 has.

The name asked for is www.example.com. Made with: openssl s_client 3.0 (with and without -servername, and -tls1_2),
curl 7.88, Java 17 (SSLSocket), Go 1.19 (crypto/tls), Chromium 156 and Firefox ESR (with GREASE, an imitated
encrypted ClientHello and post-quantum key shares).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from egress_router.tls.client_hello import ClientHelloReader
from egress_router.tls.errors import TlsError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from egress_router.tls.client_hello import ClientHello

_FOLDER = Path(__file__).parent / "recorded"
RECORDED = {path.stem: bytes.fromhex(path.read_text()) for path in sorted(_FOLDER.glob("*.hex"))}
NAME = "www.example.com"


def vector(width: int, content: bytes) -> bytes:
    return len(content).to_bytes(width, "big") + content


def extension(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2, "big") + vector(2, content)


def names(*entries: tuple[int, bytes]) -> bytes:
    return vector(2, b"".join(bytes([kind]) + vector(2, name) for kind, name in entries))


def sni(name: bytes) -> bytes:
    return extension(0, names((0, name)))


def body(
    *extensions: bytes,
    session: bytes = b"s" * 32,
    suites: bytes = b"\x13\x01\x13\x02",
    compression: bytes = b"\0",
) -> bytes:
    """A ClientHello without its header; without extensions it ends before their length, as RFC 5246 allows."""
    fixed = b"\x03\x03" + b"r" * 32 + vector(1, session) + vector(2, suites) + vector(1, compression)
    return fixed + vector(2, b"".join(extensions)) if extensions else fixed


def message(content: bytes, kind: int = 1) -> bytes:
    return bytes([kind]) + vector(3, content)


def records(data: bytes, size: int = 1 << 14, version: bytes = b"\x03\x01") -> bytes:
    """Cut a handshake message into records of `size` bytes."""
    return b"".join(b"\x16" + version + vector(2, data[at : at + size]) for at in range(0, len(data), size))


def hello(*extensions: bytes) -> bytes:
    return records(message(body(*extensions)))


def is_taken(sent: bytes, judge: Callable[[ClientHello | None], bool]) -> bool:
    """Say whether Python reads these bytes without an error, and `judge` accepts the result."""
    try:
        return judge(ClientHelloReader().feed(sent))
    except TlsError:
        return False


def with_one_byte_wrong(right: bytes, at_name: int, dice: random.Random, lowest: int = 0) -> Iterator[bytes]:
    """Yield a ClientHello with one byte changed, doubled or left out, from `lowest` on; often near its name."""
    for _ in range(150):
        at = dice.choice([dice.randrange(lowest, len(right)), dice.randrange(at_name - 12, at_name + 10)])
        kind = dice.randrange(3)
        if kind == 0:
            yield right[:at] + bytes([dice.randrange(256)]) + right[at + 1 :]
        elif kind == 1:
            yield right[:at] + right[at - 1 : at] + right[at:]
        else:
            yield right[:at] + right[at + 1 :]
