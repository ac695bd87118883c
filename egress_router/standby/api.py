"""The API server: two named objects, read and patched. A thin shell with an event loop of its own.

No client library: a GET and a merge patch with resourceVersion are all that is needed. Nothing is watched: a
router needs the Lease at the moment in which its peer falls silent, and reads it then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from egress_router import log
from egress_router.clock import SYSTEM, Clock
from egress_router.errors import RefusedError
from egress_router.service.aiohttp_loading import aiohttp
from egress_router.standby.actions import Answer, Ask
from egress_router.standby.record import Record, RecordError, lease_patch, points_at, read_lease, slice_patch
from egress_router.standby.role import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from egress_router.grammar.address import IPAddress
    from egress_router.settings.standby import ObjectName, StandbySettings
    from egress_router.standby.standing import Standing

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT = 1.0  # seconds; see `Timing.ask`
_MAX_BYTES = 65536
_LOOK_AGAIN = 5.0  # seconds between two looks at the EndpointSlice while this router is active
_RETRY = 0.25
_SO_MARK = 36
_PATCH = "application/merge-patch+json"
_log = log.get("standby")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the API server is, and what proves who we are; both files may change at any time."""

    url: str
    token: Path
    ca: Path
    mark: int

    @classmethod
    def of_this_pod(cls, environ: Mapping[str, str], mark: int) -> Cluster:
        """Find it as every pod does.

        Raises:
            RefusedError: this is no pod, or it has no service account.
        """
        host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
        if not host or not port:
            raise RefusedError(
                "EGRESS_STANDBY_LEASE and EGRESS_STANDBY_SERVICE need a cluster, and this is no pod of one",
                "leave both out",
            )
        token = SERVICE_ACCOUNT / "token"
        if not token.exists():
            raise RefusedError(
                f"there is no {token}", "set automountServiceAccountToken: true in the pod's specification"
            )
        bracketed = f"[{host}]" if ":" in host else host
        return cls(f"https://{bracketed}:{port}", token, SERVICE_ACCOUNT / "ca.crt", mark)


class ApiError(OSError):
    """The API server did not do what was asked; the text says what it said."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Client:
    """Requests to the API server, each within its time and with bounded answers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._context: tuple[int, ssl.SSLContext] | None = None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(socket_factory=self._socket, limit=4),
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT),
            trust_env=False,
        )

    def _socket(self, where: tuple[object, ...]) -> socket.socket:
        family, kind, protocol = cast("tuple[int, int, int]", where[:3])
        made = socket.socket(family, kind, protocol)
        if self._cluster.mark:
            # By the routes of the pod's first interface, wherever the default route leads now.
            made.setsockopt(socket.SOL_SOCKET, _SO_MARK, self._cluster.mark)
        made.setblocking(False)
        return made

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def get(self, path: str) -> object:
        """Read an object.

        Raises:
            ApiError: it cannot be read.
        """
        return await self._request("GET", path, None)

    async def patch(self, path: str, body: object) -> object:
        """Change an object, and return it.

        Raises:
            ApiError: it cannot be changed; status 409 where it is not the one that was read.
        """
        return await self._request("PATCH", path, body)

    async def _request(self, method: str, path: str, body: object) -> object:
        try:
            # The kubelet renews the token now and then.
            token = self._cluster.token.read_text(encoding="ascii").strip()
            headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
            data = None
            if body is not None:
                headers["Content-Type"], data = _PATCH, json.dumps(body)
            async with self._session.request(
                method,
                self._cluster.url + path,
                headers=headers,
                data=data,
                ssl=self._tls(),
                allow_redirects=False,
            ) as response:
                raw = await response.content.read(_MAX_BYTES)
                if response.status != 200:
                    raise ApiError(response.status, f"{response.status} {_message(raw)}")
                return cast("object", json.loads(raw))
        except TimeoutError:
            raise ApiError(0, f"no answer within {_TIMEOUT:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, ApiError):
                raise
            raise ApiError(0, str(error) or type(error).__name__) from None

    def _tls(self) -> ssl.SSLContext | bool:
        if not self._cluster.url.startswith("https:"):
            return True
        changed = self._cluster.ca.stat().st_mtime_ns
        if self._context is None or self._context[0] != changed:
            self._context = (changed, ssl.create_default_context(cafile=str(self._cluster.ca)))
        return self._context[1]


def _message(raw: bytes) -> str:
    """Return what a Status object says, or the beginning of whatever came."""
    with contextlib.suppress(ValueError, AttributeError):
        said = json.loads(raw).get("message")
        if isinstance(said, str):
            return said[:300]
    return raw[:200].decode("utf-8", "replace")


class ApiThread:
    """Answers the state machine's questions to the witness, and keeps the EndpointSlice pointing at us."""

    def __init__(
        self,
        cluster: Cluster,
        settings: StandbySettings,
        dead: frozenset[int],
        pod_address: IPAddress | None,
        seconds: float,
        clock: Clock = SYSTEM,
    ) -> None:
        self.answer: Callable[[Answer], None] = lambda _: None
        self.trouble: Callable[[str | None], None] = lambda _: None
        self._cluster = cluster
        self._lease = (
            None if settings.lease is None else _path(settings.lease, "coordination.k8s.io", "leases")
        )
        self._slice = (
            None
            if settings.service is None
            else _path(settings.service, "discovery.k8s.io", "endpointslices")
        )
        self._names = settings
        self._dead = dead
        self._pod_address = pod_address
        self._seconds = seconds
        self._clock = clock
        self._writer = socket.gethostname()
        self._loop = asyncio.new_event_loop()
        self._is_active = asyncio.Event()
        self._said: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="api", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def ask(self, ask: Ask) -> None:
        """Take a question of the state machine; the answer comes by `answer`. From any thread."""
        self._loop.call_soon_threadsafe(self._begin, ask)

    def standing(self, standing: Standing) -> None:
        """Hear where the router stands. From any thread."""
        is_active = standing.role is Role.ACTIVE
        self._loop.call_soon_threadsafe(self._is_active.set if is_active else self._is_active.clear)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._client = Client(self._cluster)
        try:
            if self._slice is not None and self._pod_address is not None:
                await self._keep_slice(self._slice, self._pod_address)
            else:
                await asyncio.Event().wait()
        finally:
            await self._client.close()

    def _begin(self, ask: Ask) -> None:
        task = self._loop.create_task(self._answer(ask))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, ask: Ask) -> None:
        nothing = Answer(ask.token, applied=False, members=None, term=0, version=None)
        try:
            answer = await self._consult(ask)
        except (ApiError, RecordError) as error:
            self._say("lease", str(error))
            self.trouble(f"the Lease {self._names.lease} cannot be used: {error}")
            answer = nothing
        else:
            self._say("lease", None)
            self.trouble(None)
        self.answer(answer)

    async def _consult(self, ask: Ask) -> Answer:
        if self._lease is None:
            raise ApiError(0, "there is no Lease")
        if ask.members is not None:
            wanted = Record(ask.members, ask.term, ask.version)
            patch = lease_patch(wanted, self._seconds, self._writer, self._clock.time())
            try:
                record = read_lease(await self._client.patch(self._lease, patch))
            except ApiError as error:
                if error.status != 409:
                    raise
            else:
                return Answer(
                    ask.token, applied=True, members=record.members, term=record.term, version=record.version
                )
        record = read_lease(await self._client.get(self._lease), self._dead)
        return Answer(
            ask.token, applied=False, members=record.members, term=record.term, version=record.version
        )

    async def _keep_slice(self, path: str, address: IPAddress) -> None:
        """While this router is active, have the EndpointSlice lead to it."""
        while True:
            await self._is_active.wait()
            try:
                found = await self._client.get(path)
                if self._is_active.is_set() and not points_at(found, address):
                    await self._client.patch(path, slice_patch(found, address))
                    _log.info("EndpointSlice points here", slice=self._names.service, address=address)
            except (ApiError, RecordError) as error:
                self._say("slice", str(error))
                await asyncio.sleep(_RETRY)
            else:
                self._say("slice", None)
                await asyncio.sleep(_LOOK_AGAIN)

    def _say(self, what: str, error: str | None) -> None:
        """Log a trouble when it begins, changes, or ends."""
        if self._said.get(what) == error:
            return
        name = self._names.lease if what == "lease" else self._names.service
        if error is None:
            del self._said[what]
            _log.info("an object of Kubernetes can be used again", kind=what, name=str(name))
        else:
            self._said[what] = error
            _log.warning("an object of Kubernetes cannot be used", kind=what, name=str(name), error=error)


def _path(name: ObjectName, group: str, plural: str) -> str:
    return f"/apis/{group}/v1/namespaces/{name.namespace}/{plural}/{name.name}"
