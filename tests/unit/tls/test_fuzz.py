"""Mutated ClientHellos against the reader, with OpenSSL as the checker: two readers must not see two names."""

from __future__ import annotations

import contextlib
import os
import random
import ssl
import sys
import time
from typing import TYPE_CHECKING

from egress_router.tls.client_hello import MAX_HELLO, ClientHello, ClientHelloReader
from egress_router.tls.errors import TlsError, TlsFault
from egress_router.tls.server_name import server_name
from tests.unit.tls.hellos import RECORDED, extension, hello, names, records, sni

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS", "2"))  # `make fuzz` takes longer
_LARGEST_PIECE = 1 << 12
TLS12 = extension(13, b"\x00\x02\x04\x03") + extension(10, b"\x00\x02\x00\x1d")
SEEDS = [
    *RECORDED.values(),
    hello(sni(b"a.example"), TLS12),
    hello(TLS12, extension(0, names((0, b"a.example"), (0, b"b.example")))),
    hello(extension(0, names((7, b"c.example"), (0, b"a.example"))), sni(b"b.example")),
    hello(sni(b"192.0.2.1"), extension(0xFE0D, b"\0" * 40), extension(41, b"key")),
    records(RECORDED["chromium"][5:], 97),
    records(RECORDED["openssl"][5:], 1),
]
NOISE = (b"\0", b"\xff", b"\x16", b"\x16\x03\x01", b"\x01", b"\0\0", sni(b"b.example"), b"example.org", b".")


def flipped(data: bytearray, dice: random.Random) -> None:
    data[dice.randrange(len(data))] = dice.choice((0, 1, 0x16, 0x7F, 0xFF, dice.randrange(256)))


def spliced(data: bytearray, dice: random.Random) -> None:
    place = dice.randrange(len(data))
    data[place : place + dice.randint(0, 4)] = dice.choice((*NOISE, dice.randbytes(dice.randint(1, 9))))


def shifted(data: bytearray, dice: random.Random) -> None:
    """Change what may be a length by a little: fields that do not add up by one."""
    place = dice.randrange(len(data))
    data[place] = (data[place] + dice.choice((-2, -1, 1, 2))) % 256


def crossed(data: bytearray, dice: random.Random) -> None:
    """Go on with another seed in the middle."""
    other = dice.choice(SEEDS)
    at = dice.randrange(len(other))
    place = dice.randrange(len(data))
    data[place:] = other[at:] if dice.random() < 0.5 else other[place:]


def repeated(data: bytearray, dice: random.Random) -> None:
    place = dice.randrange(len(data))
    end = place + dice.randint(1, 200)
    data[end:end] = data[place:end] * dice.randint(1, 30)


def recut(data: bytearray, dice: random.Random) -> None:
    """Cut the message into other records."""
    data[:] = records(bytes(data[5:]), dice.choice((1, 2, 3, 50, 1000)))


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flipped,
    flipped,
    shifted,
    shifted,
    spliced,
    crossed,
    repeated,
    recut,
)


def mutated(dice: random.Random) -> bytes:
    data = bytearray(dice.choice(SEEDS))
    for _ in range(dice.randint(1, 4)):
        dice.choice(MUTATIONS)(data, dice)
        if not data:
            return b"\x16"
    return bytes(data)


def outcome(data: bytes, dice: random.Random | None) -> ClientHello | TlsFault | None:
    """Feed `data`, whole or in pieces, and hold the reader to its bounds."""
    reader, at = ClientHelloReader(), 0
    while at < len(data):
        size = len(data) if dice is None else dice.choice((1, 2, 5, 64, _LARGEST_PIECE))
        piece = data[at : at + size]
        at += len(piece)
        try:
            found = reader.feed(piece)
        except TlsError as error:
            return error.fault
        assert reader.held == data[:at]
        assert found is not None or len(reader.held) <= MAX_HELLO
        if found is not None:
            return found
    return None


class Checker:
    """OpenSSL, as a server that says which name a client asked for."""

    def __init__(self) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.sni_callback = self._asked
        self._names: list[str | None] = []

    def name(self, data: bytes) -> str | None:
        """Return the name that OpenSSL read; None: it read none, or gave up before it came to that."""
        self._names.clear()
        incoming = ssl.MemoryBIO()
        incoming.write(data)
        with contextlib.suppress(ssl.SSLError):
            self._context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()
        return self._names[0] if self._names else None

    def _asked(self, _: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        self._names.append(name)


def test_the_judge_reads_the_names_of_real_clients() -> None:
    checker = Checker()
    for client, data in RECORDED.items():
        assert checker.name(data) == (None if client == "openssl-no-name" else "www.example.com"), client


def test_mutated_hellos_are_read_as_openssl_reads_them_or_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    dice, checker = random.Random(7), Checker()
    end = time.monotonic() + FUZZ_SECONDS
    inputs = hellos = 0
    while time.monotonic() < end:
        data = mutated(dice)
        inputs += 1
        whole = outcome(data, None)
        assert outcome(data, dice) == whole, data.hex()
        if whole is None:  # a stream that ends here has told no other reader a name, either
            assert checker.name(data) is None, data.hex()
        if not isinstance(whole, ClientHello):
            continue
        hellos += 1
        server_name(whole)  # a name or a fault of its own, never an exception
        theirs = checker.name(data)
        assert theirs in {None, whole.server_name}, data.hex()
    assert 0 < hellos < inputs
    if "FUZZ_SECONDS" in os.environ:
        with capsys.disabled():
            sys.stdout.write(f"\n{inputs:,} mutated ClientHellos, {hellos:,} of them still one\n")
