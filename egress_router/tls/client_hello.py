"""Reads a ClientHello out of the first bytes of a connection, however they are split.

Any byte may be hostile. What two parsers could read differently is refused: bytes after the last field, a
repeated extension, two names, lengths that do not add up. Nothing is decrypted, and only what is needed to
find the name is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from egress_router.tls.errors import TlsError, TlsFault

if TYPE_CHECKING:
    from collections.abc import Iterator

TLS_RECORD: Final = b"\x16"  # first byte of every TLS connection: a handshake record, RFC 8446 5.1
MAX_HELLO: Final = 1 << 14  # bytes with record headers; real ones with post-quantum keys have under 2 KiB
_RECORD_HEADER: Final = 5
_MESSAGE_HEADER: Final = 4
_HANDSHAKE: Final = 22  # RFC 8446 5.1, ContentType
_CLIENT_HELLO: Final = 1  # RFC 8446 4, HandshakeType
_MAX_RECORD: Final = 1 << 14  # RFC 8446 5.1: bytes in a plaintext record
_MAX_MINOR_VERSION: Final = 4  # a record says 3.1 or 3.3; 3.4 leaves room for a careless client
_LEGACY_VERSION_AND_RANDOM: Final = 34
_SERVER_NAME: Final = 0  # RFC 6066 3
_PRE_SHARED_KEY: Final = 41  # RFC 8446 4.2.11
_ENCRYPTED_HELLO: Final = 0xFE0D  # RFC 9849 5
_HOST_NAME: Final = 0  # RFC 6066 3, NameType


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a ClientHello says about its destination.

    `server_name` is the SNI as it was sent, neither normalised nor checked; None: there is none. `encrypted`:
    there is an extension with an encrypted ClientHello, or its imitation (GREASE); then the name is the outer
    one.
    """

    server_name: str | None
    encrypted: bool


class ClientHelloReader:
    """Collects the bytes of one connection until its ClientHello is complete; bounded by `MAX_HELLO`."""

    __slots__ = ("_held", "_message", "_next")

    def __init__(self) -> None:
        self._held = bytearray()  # every byte so far
        self._message = bytearray()  # the handshake message inside the records that are complete
        self._next = 0  # where the next record begins in `_held`

    @property
    def held(self) -> bytes:
        """All bytes that were fed: whoever forwards the connection must send them first."""
        return bytes(self._held)

    @property
    def size(self) -> int:
        """How many bytes are held: all that were fed, and the message extracted from them."""
        return len(self._held) + len(self._message)

    def feed(self, data: bytes) -> ClientHello | None:
        """Take more bytes; return the ClientHello once it is complete, None before.

        Bytes after it (early data) are kept in `held` and not read.

        Raises:
            TlsError: this is not TLS, not well formed, or too large. The reader cannot be used after that.
        """
        self._held += data
        self._check_start()
        while (record := self._record()) is not None:
            self._message += record
            self._next += _RECORD_HEADER + len(record)
            message = self._complete()
            if message is not None:
                return parse(message)
        if len(self._held) > MAX_HELLO:
            raise _too_large()
        return None

    def _check_start(self) -> None:
        """Refuse at the first byte that no ClientHello can have, without waiting for the rest."""
        start = self._held[:3]
        if start[:1] and start[0] != _HANDSHAKE:
            raise TlsError(
                TlsFault.NOT_TLS, f"the first byte is 0x{start[0]:02x}, not a TLS handshake's 0x16"
            )
        if len(start) > 1 and start[1] != 3:
            raise TlsError(TlsFault.NOT_TLS, f"the record's major version is {start[1]}, not 3")
        if len(start) > 2 and start[2] > _MAX_MINOR_VERSION:
            raise TlsError(TlsFault.NOT_TLS, f"the record's version is 3.{start[2]}")

    def _record(self) -> bytes | None:
        """Return the content of the next record; None if it is not complete."""
        header = self._held[self._next : self._next + _RECORD_HEADER]
        if not header:
            return None
        if header[0] != _HANDSHAKE:
            raise _malformed(f"a record of type {header[0]} interrupts the ClientHello")
        if len(header) < _RECORD_HEADER:
            return None
        if header[1] != 3 or header[2] > _MAX_MINOR_VERSION:
            raise _malformed(f"a record has version {header[1]}.{header[2]}")
        length = int.from_bytes(header[3:5], "big")
        if not 0 < length <= _MAX_RECORD:  # RFC 8446 5.1: no empty fragments of a handshake
            raise _malformed(f"a record has {length} bytes")
        if self._next + _RECORD_HEADER + length > MAX_HELLO:
            raise _too_large()
        start = self._next + _RECORD_HEADER
        return bytes(self._held[start : start + length]) if len(self._held) >= start + length else None

    def _complete(self) -> bytes | None:
        """Return the body of the handshake message once all of it is here."""
        message = self._message
        if message[0] != _CLIENT_HELLO:
            raise _malformed(f"the first handshake message is of type {message[0]}, not a ClientHello")
        if len(message) < _MESSAGE_HEADER:
            return None
        length = int.from_bytes(message[1:4], "big")
        if length > MAX_HELLO:
            raise _too_large()
        if len(message) < _MESSAGE_HEADER + length:
            return None
        if len(message) > _MESSAGE_HEADER + length:
            # RFC 8446 5.1 lets messages share a record, but nothing may follow until the server has answered.
            raise _malformed("bytes follow the ClientHello in its record")
        return bytes(message[_MESSAGE_HEADER:])


def parse(body: bytes) -> ClientHello:
    """Read the body of a ClientHello (RFC 8446 4.1.2), of any version of TLS.

    Raises:
        TlsError: it is malformed.
    """
    fields = _Cursor(body)
    fields.take(_LEGACY_VERSION_AND_RANDOM, "version and random")
    _bounded(fields.vector(1, "session id"), 0, 32, "session id")
    suites = fields.vector(2, "cipher suites")
    if not suites or len(suites) % 2:
        raise _malformed(f"the cipher suites have {len(suites)} bytes")
    _bounded(fields.vector(1, "compression methods"), 1, 255, "compression methods")
    if fields.at_end():  # RFC 5246 7.4.1.2: extensions may be left out
        return ClientHello(None, encrypted=False)
    extensions = dict(_extensions(fields.vector(2, "extensions")))
    if not fields.at_end():
        raise _malformed("bytes follow the extensions")
    name = _server_name(extensions[_SERVER_NAME]) if _SERVER_NAME in extensions else None
    return ClientHello(name, encrypted=_ENCRYPTED_HELLO in extensions)


def _extensions(block: bytes) -> Iterator[tuple[int, bytes]]:
    seen: set[int] = set()
    cursor = _Cursor(block)
    while not cursor.at_end():
        kind = int.from_bytes(cursor.take(2, "an extension's type"), "big")
        if kind in seen:  # RFC 8446 4.2
            raise _malformed(f"extension {kind} stands twice")
        if _PRE_SHARED_KEY in seen:  # RFC 8446 4.2.11
            raise _malformed("an extension follows the pre-shared key, which must be the last one")
        seen.add(kind)
        yield kind, cursor.vector(2, f"extension {kind}")


def _server_name(extension: bytes) -> str | None:
    """Read the list of names (RFC 6066 3): at most one host name; other types are not defined yet."""
    outer = _Cursor(extension)
    names = _Cursor(outer.vector(2, "the server name list"))
    if names.at_end() or not outer.at_end():
        raise _malformed("the server name list is empty, or bytes follow it")
    host: bytes | None = None
    while not names.at_end():
        kind = names.take(1, "a name's type")[0]
        name = names.vector(2, "a server name")
        if kind != _HOST_NAME:
            continue
        if host is not None:
            raise _malformed("there are two server names")
        host = name
    if host is None:
        return None
    if not host or not all(0x21 <= byte <= 0x7E for byte in host):
        raise _malformed("the server name is empty or not printable ASCII")
    return host.decode("ascii")


class _Cursor:
    """Takes one field after the other from the front of bytes."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def at_end(self) -> bool:
        return self._at == len(self._data)

    def take(self, count: int, what: str) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise _malformed(f"{what} is cut short")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def vector(self, width: int, what: str) -> bytes:
        """Take a vector; the `width` bytes before it are its length (RFC 8446 3.4)."""
        return self.take(int.from_bytes(self.take(width, what), "big"), what)


def _bounded(field: bytes, least: int, most: int, what: str) -> None:
    if not least <= len(field) <= most:
        raise _malformed(f"the {what} have {len(field)} bytes")


def _malformed(reason: str) -> TlsError:
    return TlsError(TlsFault.MALFORMED, reason)


def _too_large() -> TlsError:
    return TlsError(TlsFault.TOO_LARGE, f"the ClientHello is larger than {MAX_HELLO} bytes")
