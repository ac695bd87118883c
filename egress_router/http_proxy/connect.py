"""A CONNECT whose target is allowed: from its connection to the beginning of the tunnel.

A TLS server name in the first bytes must be the host that the CONNECT named. Otherwise an allowed host would
give access to every other host at the same address (domain fronting). Until this is checked, the origin gets
no bytes of the client, and the connection is no tunnel yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from egress_router import log
from egress_router.http_proxy import replies
from egress_router.http_proxy.callbacks import callback
from egress_router.http_proxy.http1.state import INTO_HELLO
from egress_router.http_proxy.owner import Request
from egress_router.relay.buffered_socket import BufferedSocket, nothing
from egress_router.tls.alert import Alert, fatal
from egress_router.tls.client_hello import ClientHelloReader
from egress_router.tls.errors import TlsError

if TYPE_CHECKING:
    from egress_router.http_proxy.owner import Owner
    from egress_router.http_proxy.request_info import RequestInfo
    from egress_router.relay.deadlines import Deadline
    from egress_router.relay.dial import Dialled

# A TLS client sends its ClientHello at once; in other protocols the server may speak first. Watching the
# server costs a wake-up, and most clients have sent something within this time.
_SERVER_FIRST_SECONDS: Final = 0.05
_HANDSHAKE: Final = b"\x16"  # the first byte of a TLS connection: RFC 8446 5.1
_HTTPS: Final = 443  # on this port no timeout opens the tunnel: a late ClientHello is checked, too
_log = log.get("http_proxy")


class ConnectRequest(Request):
    """Made for each CONNECT. Once connected, it checks the first bytes and opens a tunnel."""

    __slots__ = ("_began", "_client", "_connected", "_deadline", "_info", "_origin", "_owner", "_reader",
        "_rest", "_worker")  # fmt: skip

    def __init__(self, owner: Owner, info: RequestInfo) -> None:
        self._owner = owner
        self._info = info
        self._worker = owner.worker
        self._client = owner.stream
        self._origin: BufferedSocket
        self._connected = False
        self._began = 0.0
        self._reader: ClientHelloReader | None = None
        self._deadline: Deadline | None = None
        self._rest: Deadline | None = None

    def __repr__(self) -> str:
        return f"<ConnectRequest {self._info} connected={self._connected} held={self.held}>"

    @property
    def held(self) -> int:
        """How many bytes of the client are buffered."""
        return 0 if self._reader is None else self._reader.size

    def connected(self, dialled: Dialled) -> None:
        """Answer; see `answered`."""
        self._client.send(replies.ESTABLISHED)
        if self._worker.sni == "off":
            self._owner.open_tunnel(self._info, dialled.sock, self._client.out)
        else:
            self.answered(dialled)

    def answered(self, dialled: Dialled, *, silent: bool = False) -> None:
        """Check the bytes that came with the CONNECT, which was answered, and wait for more.

        `silent` says that the client has already had its time to send something first.
        """
        worker, client, owner = self._worker, self._client, self._owner
        owner.state = INTO_HELLO[owner.state]
        self._connected = True
        self._origin = BufferedSocket(dialled.sock, worker.poller, nothing)
        data, client.held = client.held, b""
        if data and self._take(data):
            return
        client.on_ready = self._client_ready
        client.watch_anew()
        if self._rest is None:
            waited = _SERVER_FIRST_SECONDS if silent else 0.0
            self._began = worker.clock.monotonic() - waited
            self._deadline = worker.deadlines.add(_SERVER_FIRST_SECONDS - waited, self._watch_origin)
        if self._reader is not None or owner.holds:
            owner.account()

    def give_way(self) -> None:
        """End, because all connections together buffer too much."""
        self._owner.abort()

    def close_now(self) -> None:
        """End, because the client's connection has to end."""
        self._owner.abort()

    def left(self) -> None:
        """Close the origin's connection, because the client's has closed."""
        if self._connected:
            self._stop()
            self._origin.abort()

    def fault(self, error: Exception) -> None:
        """Close the client's connection, because of an unexpected error."""
        self._owner.fault(error)

    @callback
    def _client_ready(self) -> None:
        if self._client.gone:
            self._owner.close("client_gone")
            return
        if self._client.out:  # of the answer
            self._client.flush()
        for _ in range(self._worker.reads_in_turn):
            data = self._client.receive()
            if data is None:
                break
            if not data:
                self._ended()
                return
            if self._take(data):
                return
        else:
            self._client.again()
        if self._reader is not None:
            self._owner.account()

    def _ended(self) -> None:
        """The client's stream has ended; it may still want to hear the origin."""
        if self._reader is None:
            self._pass()
        else:
            self._mismatch(None)  # what is here of a ClientHello cannot be judged any more

    @callback
    def _watch_origin(self) -> None:
        """Watch the server: one that speaks first does not speak TLS. The end of its stream is passed on."""
        worker = self._worker
        seconds = worker.limits.idle_seconds
        if self._info.target.port != _HTTPS:
            seconds = self._began + worker.hello_seconds - worker.clock.monotonic()
            if seconds <= 0:  # this worker was busy for a while
                self._pass()
                return
        self._deadline = worker.deadlines.add(seconds, self._late)
        self._origin.on_ready = self._origin_ready
        self._origin.watch()

    @callback
    def _origin_ready(self) -> None:
        if not self._origin.readable:  # only writable, as every new connection is
            return
        is_tls = self._info.target.port == _HTTPS or self._rest is not None
        if is_tls and self._worker.enforces_sni:
            self._owner.close("origin_first")  # no TLS server speaks first: it has closed, or is none
        else:
            self._pass()

    @callback
    def _late(self) -> None:
        if self._info.target.port == _HTTPS:
            self._worker.accounting.idle_end("idle_seconds")
            self._owner.close("idle")
        else:
            self._pass()

    def _await_rest(self) -> None:
        """Give a ClientHello that has begun the time for a head to be complete, on any port."""
        if self._rest is None:
            if self._deadline is not None:
                self._deadline.cancel()
            self._rest = self._worker.deadlines.add(self._worker.limits.head_seconds, self._overdue)

    @callback
    def _overdue(self) -> None:
        self._worker.accounting.limit("head_seconds")
        self._mismatch(None)

    def _take(self, data: bytes) -> bool:
        """Check bytes of the client; say whether the decision is made."""
        if self._reader is None:
            if data[:1] != _HANDSHAKE:
                self._pass(data)
                return True
            self._reader = ClientHelloReader()
        try:
            hello = self._reader.feed(data)
        except TlsError:
            # The origin may understand what this proxy does not: Go's TLS takes records of any version.
            self._mismatch(None)
            return True
        if hello is None:
            self._await_rest()
            return False
        if self._worker.access.covers(hello, self._info):
            self._pass()
        else:
            self._mismatch(hello.server_name)
        return True

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
            self._stop()
            self._connected = False
            self._origin.close()
            self._worker.accounting.closed(self._info, 200, 0, 0, "sni_mismatch")
            self._owner.say_and_close(fatal(Alert.ACCESS_DENIED))  # the way a TLS server refuses
        else:
            self._pass()

    def _pass(self, data: bytes = b"") -> None:
        """Open the tunnel; `data` is sent first, unless the reader of the ClientHello has the bytes."""
        self._stop()
        self._client.held = data if self._reader is None else self._reader.held
        self._owner.open_tunnel(self._info, self._origin.sock, self._client.out)

    def _stop(self) -> None:
        """Stop checking."""
        for each in (self._deadline, self._rest):
            if each is not None:
                each.cancel()
        self._client.on_ready = self._origin.on_ready = nothing
