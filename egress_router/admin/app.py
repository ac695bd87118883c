"""The administration endpoint: /healthz, /readyz, /metrics, /status and the page.

One short request per connection and a bound on everything: whoever can reach the pod can reach this port.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.admin import page
from egress_router.admin.exposition import CONTENT_TYPE, exposition
from egress_router.admin.history import History
from egress_router.admin.shared_answer import SharedAnswer
from egress_router.clock import SYSTEM
from egress_router.service.aiohttp_loading import web
from egress_router.service.standby_monitor import is_good_standby

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from egress_router.clock import Clock
    from egress_router.service.view import View

_MAX_LINE_BYTES = 4096
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Connection": "close",
}
# `exclude` works as in Kubernetes' own API server. A rollout goes on when a new pod is ready.
READY_OR_STANDBY = "/readyz?exclude=standby"
_log = log.get("admin")


@dataclass(frozen=True, slots=True)
class Limits:
    """Connections at a time, and seconds for one connection: head, answer and a slow reader together."""

    connections: int = 64
    connection_seconds: float = 10.0


_LIMITS = Limits()


async def serve(
    view: View, listener: socket.socket, clock: Clock = SYSTEM, limits: Limits = _LIMITS
) -> Endpoint:
    """Serve what `view` answers on a socket that listens, until the endpoint is closed."""
    history = History(view, clock)
    answers = Answers(view, history, clock)
    http = _Http(answers.answer)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _connection(http, answers, limits), sock=listener, backlog=limits.connections
    )
    return Endpoint(http, server, loop.create_task(history.record()))


class _Http(web.Server):
    """A server that reveals neither its software nor what a bad request held."""

    def __call__(self) -> web.RequestHandler:
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None; its types do not say so
            logger=_no_logger(),  # the bad request of a peer is not logged
            lingering_time=0.0,
            max_line_size=_MAX_LINE_BYTES,
            max_field_size=_MAX_LINE_BYTES,
        )


class _Connection(web.RequestHandler):
    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 (aiohttp's signature)
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """Answer what is not HTTP; aiohttp's own answer would repeat the bytes that came."""
        response = _text(status, f"{HTTPStatus(status).phrase.lower()}\n")
        response.force_close()
        return response


class _Response(web.Response):
    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        del self.headers["Server"]  # aiohttp adds its version and Python's if there is none


class Endpoint:
    """The running endpoint."""

    def __init__(self, http: web.Server, server: asyncio.Server, recording: asyncio.Task[None]) -> None:
        self._http = http
        self._server = server
        self._recording = recording

    async def close(self) -> None:
        """Stop serving; answers that are under way are cut."""
        self._recording.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._recording
        self._server.close()
        await self._http.shutdown(timeout=0.0)
        await self._server.wait_closed()


def _connection(http: web.Server, answers: Answers, limits: Limits) -> asyncio.Protocol:
    """Make a connection; above the limit end the oldest ones, beginning with those that have no request.

    So a client that holds connections open cannot keep out a probe, which sends its request at once.
    """
    too_many = len(http.connections) - limits.connections + 1
    if too_many > 0:
        for each in sorted(http.connections, key=answers.under_way.__contains__)[:too_many]:
            _abort(each)
    connection = http()
    asyncio.get_running_loop().call_later(limits.connection_seconds, _abort, connection)
    return connection


def _abort(connection: web.RequestHandler) -> None:
    if connection.transport is not None:
        connection.transport.abort()


class Answers:
    """The answer of each path; `under_way` are the connections whose answer is being made."""

    def __init__(self, view: View, history: History, clock: Clock) -> None:
        self.under_way: set[web.RequestHandler] = set()
        self._view = view
        self._history = history
        self._clock = clock
        self._exposition = SharedAnswer(self._make_exposition, clock)
        self._shown = SharedAnswer(self._make_status, clock)
        self._by_path: dict[str, Callable[[], Awaitable[web.Response]]] = {
            "/healthz": self._health,
            "/readyz": self._ready,
            READY_OR_STANDBY: self._ready_or_standby,
            "/metrics": self._metrics,
            "/status": self._status,
        }

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, and end the connection."""
        self.under_way.add(request.protocol)
        try:
            response = await self._response(request)
        finally:
            self.under_way.discard(request.protocol)
        response.force_close()
        return response

    async def _response(self, request: web.BaseRequest) -> web.Response:
        if request.method not in {"GET", "HEAD"}:
            return _text(405, "only GET and HEAD\n", Allow="GET, HEAD")
        if request.path in page.FILES:
            kind, body = page.FILES[request.path]
            policy = {"Content-Security-Policy": page.POLICY, "Referrer-Policy": "no-referrer"}
            return _Response(body=body, headers={**_HEADERS, **policy, "Content-Type": kind})
        excludes_standby = str(request.rel_url) == READY_OR_STANDBY
        answer = self._by_path.get(READY_OR_STANDBY if excludes_standby else request.path)
        if answer is None:
            return _text(404, "there are /healthz, /readyz, /metrics, /status and /\n")
        try:
            return await answer()
        except Exception as error:  # noqa: BLE001 (a bug of ours, which must not stop the other answers)
            _log.exception("an administration request failed", error, path=request.path)
            return _text(500, "internal error; see the log\n")

    async def _health(self) -> web.Response:
        return _verdict(self._view.health())

    async def _ready(self) -> web.Response:
        return _verdict(self._view.ready())

    async def _ready_or_standby(self) -> web.Response:
        return _verdict(tuple(each for each in self._view.ready() if not is_good_standby(each)))

    async def _metrics(self) -> web.Response:
        """Answer with shared metrics: rendering a thousand rules takes the loop a tenth of a second."""
        body = await self._exposition.get()
        return _Response(body=body, headers={**_HEADERS, "Content-Type": CONTENT_TYPE})

    async def _make_exposition(self) -> bytes:
        return exposition(self._view.snapshot())

    async def _status(self) -> web.Response:
        """Answer with a shared status: making one costs the workers milliseconds."""
        text = await self._shown.get()
        return _Response(text=text, headers=_HEADERS, content_type="application/json", charset="utf-8")

    async def _make_status(self) -> str:
        made = self._clock.time()
        return json.dumps({"time": made, **self._history.status(), **await self._view.status()})


def _verdict(problems: tuple[str, ...]) -> web.Response:
    return _text(503, "".join(f"{each}\n" for each in problems)) if problems else _text(200, "ok\n")


def _text(status: int, text: str, **headers: str) -> web.Response:
    return _Response(status=status, text=text, headers={**_HEADERS, **headers})


def _no_logger() -> logging.Logger:
    logger = logging.getLogger("egress_router.admin.http")
    logger.disabled = True
    return logger
