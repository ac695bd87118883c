"""Looks at the first bytes of a CONNECT tunnel: a TLS name in them must be the host that the CONNECT named.

Otherwise an allowed host would be a way to every other one that the same address serves (domain fronting).
Until it is decided, nothing of the client goes to the origin, and the connection is no tunnel yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from egress_router import log
from egress_router.http_proxy.guard import guarded
from egress_router.relay.buffered_socket import TURNS, nothing
from egress_router.tls.client_hello import ClientHelloReader
from egress_router.tls.errors import TlsError
from egress_router.tls.server_name import SniMatch, compare, server_name

if TYPE_CHECKING:
    from egress_router.http_proxy.request_info import RequestInfo
    from egress_router.http_proxy.worker_state import WorkerState
    from egress_router.relay.buffered_socket import BufferedSocket
    from egress_router.relay.deadlines import Deadline
    from egress_router.tls.client_hello import ClientHello

# Who speaks TLS sends its ClientHello at once; in other protocols the server may be the one who speaks first.
# Most clients have spoken before anybody looks after the server, which costs a wake-up.
_SERVER_FIRST_SECONDS: Final = 0.05
_SECONDS: Final = 0.25
_HANDSHAKE: Final = b"\x16"  # the first byte of a TLS connection: RFC 8446 5.1
_HTTPS: Final = 443  # here nobody waits for the server, so that a late ClientHello is judged, too
_log = log.get("http_proxy")


class Owner(Protocol):
    """The client's connection; one of these is called, once."""

    def first_bytes_pass(self, data: bytes) -> None:
        """Go on as a tunnel; `data` goes to the origin first."""

    def first_bytes_refused(self) -> None:
        """End: nothing may go to the origin."""

    def account(self) -> None:
        """Count what is held of the client's bytes now; may end the connection."""

    def close(self) -> None:
        """Close in order."""

    def fault(self, error: Exception) -> None:
        """Close, because of something that must not happen."""


class SniCheck:
    """Made for a CONNECT whose connection is there; `begin` looks at what has come, and waits for more."""

    __slots__ = ("_client", "_deadline", "_info", "_owner", "_reader", "_rest", "_worker", "origin")

    def __init__(
        self,
        worker: WorkerState,
        owner: Owner,
        info: RequestInfo,
        client: BufferedSocket,
        origin: BufferedSocket,
    ) -> None:
        self._worker = worker
        self._owner = owner
        self._info = info
        self._client = client
        self.origin = origin
        self._reader: ClientHelloReader | None = None
        self._deadline: Deadline | None = None
        self._rest: Deadline | None = None

    @property
    def held(self) -> int:
        """How many bytes of the client wait here."""
        return 0 if self._reader is None else self._reader.size

    def begin(self) -> None:
        """Look at what came with the CONNECT, and wait for more."""
        data, self._client.held = self._client.held, b""
        if data and self._take(data):
            return
        self._client.on_ready = self._client_ready
        self._client.watch_anew()
        if self._rest is None:
            self._deadline = self._worker.deadlines.add(_SERVER_FIRST_SECONDS, self._watch_origin)

    def stop(self) -> None:
        """Look no further."""
        for each in (self._deadline, self._rest):
            if each is not None:
                each.cancel()
        self._client.on_ready = self.origin.on_ready = nothing

    def fault(self, error: Exception) -> None:
        """Close the client's connection, because of something that must not happen."""
        self._owner.fault(error)

    @guarded
    def _client_ready(self) -> None:
        if self._client.gone:
            self._owner.close()
            return
        for _ in range(TURNS):
            data = self._client.receive()
            if data is None:
                break
            if not data:
                self._pass()
                return
            if self._take(data):
                return
        else:
            self._client.again()
        if self._reader is not None:
            self._owner.account()

    @guarded
    def _watch_origin(self) -> None:
        """Who answers before it was asked speaks no TLS; the end of its stream is passed on, too."""
        https = self._info.target.port == _HTTPS
        seconds = self._worker.limits.idle_seconds if https else _SECONDS - _SERVER_FIRST_SECONDS
        self._deadline = self._worker.deadlines.add(seconds, self._late)
        self.origin.on_ready = self._origin_ready
        self.origin.watch()

    @guarded
    def _origin_ready(self) -> None:
        if not self.origin.readable:  # it may be written to, as every new connection
            return
        is_tls = self._info.target.port == _HTTPS or self._rest is not None
        if is_tls and self._worker.enforces_sni:
            self._owner.close()  # no TLS server speaks first; it has ended, or is none
        else:
            self._pass()

    @guarded
    def _late(self) -> None:
        if self._info.target.port == _HTTPS:
            self._worker.accounting.idle_end("idle_seconds")
            self._owner.close()
        else:
            self._pass()

    def _await_rest(self) -> None:
        """Whoever has begun a ClientHello has to end it, on any port, in the time that a head has."""
        if self._rest is None:
            if self._deadline is not None:
                self._deadline.cancel()
            self._rest = self._worker.deadlines.add(self._worker.limits.head_seconds, self._overdue)

    @guarded
    def _overdue(self) -> None:
        self._worker.accounting.limit("head_seconds")
        self._mismatch(None)

    def _take(self, data: bytes) -> bool:
        """Look at bytes of the client; say whether it is decided."""
        if self._reader is None:
            if data[:1] != _HANDSHAKE:
                self._pass(data)
                return True
            self._reader = ClientHelloReader()
        try:
            hello = self._reader.feed(data)
        except TlsError:
            # What we cannot read, the origin may read in its own way: Go's TLS takes records of any version.
            self._mismatch(None)
            return True
        if hello is None:
            self._await_rest()
            return False
        if self._is_right(hello):
            self._pass()
        else:
            self._mismatch(hello.server_name)
        return True

    def _is_right(self, hello: ClientHello) -> bool:
        info = self._info
        name = server_name(hello)
        match compare(hello, info.target.host):
            case SniMatch.SAME | SniMatch.ABSENT:
                return True
            case SniMatch.OTHER:
                return name == info.decision.full_name
            case SniMatch.ASK_LIST:
                address = info.address
                return (
                    isinstance(name, str)
                    and address is not None
                    and self._worker.access.allows_name(name, info.target.port, address)
                )

    def _mismatch(self, name: str | None) -> None:
        action = "closed" if self._worker.enforces_sni else "reported"
        self._worker.accounting.sni_mismatch(action)
        _log.warning(
            "the name in a ClientHello is not the host of its CONNECT",
            client=self._info.client,
            host=str(self._info.target.host),
            sni=name,
            action=action,
        )
        if self._worker.enforces_sni:
            self.stop()
            self._owner.first_bytes_refused()
        else:
            self._pass()

    def _pass(self, data: bytes = b"") -> None:
        """Go on; `data` came first, unless it was read as TLS."""
        self.stop()
        self._owner.first_bytes_pass(data if self._reader is None else self._reader.held)
