"""The thread for the API server: it keeps the members in the Lease, and the EndpointSlice. A thin shell."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.clock import SYSTEM, Clock
from egress_router.standby.kubernetes.client import ApiError, Client, Cluster
from egress_router.standby.kubernetes.objects import (
    Record,
    RecordError,
    lease_patch,
    points_at,
    read_lease,
    slice_patch,
)
from egress_router.standby.protocol.commands import ArbiterAnswer, AskArbiter
from egress_router.standby.protocol.role import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.grammar.address import IPAddress
    from egress_router.settings.standby import ObjectName, StandbySettings
    from egress_router.standby.status import Status

_CHECK_INTERVAL = 5.0  # seconds between two reads of the EndpointSlice while this router is active
_RETRY = 0.25  # seconds
_log = log.get("standby")


class ApiThread:
    """Answers the state machine's requests to the arbiter, and points the EndpointSlice at this pod."""

    def __init__(
        self,
        cluster: Cluster,
        settings: StandbySettings,
        dead: frozenset[int],
        pod_address: IPAddress | None,
        seconds: float,
        clock: Clock = SYSTEM,
    ) -> None:
        self.answer: Callable[[ArbiterAnswer], None] = lambda _: None
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
        self._errors: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="api", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def ask(self, ask: AskArbiter) -> None:
        """Start a request of the state machine; `answer` is called with the result. From any thread."""
        self._loop.call_soon_threadsafe(self._begin, ask)

    def status(self, status: Status) -> None:
        """Take in a new status of the router. From any thread."""
        is_active = status.role is Role.ACTIVE
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

    def _begin(self, ask: AskArbiter) -> None:
        task = self._loop.create_task(self._answer(ask))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, ask: AskArbiter) -> None:
        nothing = ArbiterAnswer(ask.token, applied=False, members=None, term=0, version=None)
        try:
            answer = await self._consult(ask)
        except (ApiError, RecordError) as error:
            self._log_change("lease", str(error))
            self.trouble(f"the Lease {self._names.lease} cannot be used: {error}")
            answer = nothing
        else:
            self._log_change("lease", None)
            self.trouble(None)
        self.answer(answer)

    async def _consult(self, ask: AskArbiter) -> ArbiterAnswer:
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
                return ArbiterAnswer(
                    ask.token, applied=True, members=record.members, term=record.term, version=record.version
                )
        record = read_lease(await self._client.get(self._lease), self._dead)
        return ArbiterAnswer(
            ask.token, applied=False, members=record.members, term=record.term, version=record.version
        )

    async def _keep_slice(self, path: str, address: IPAddress) -> None:
        """While this router is active, keep the EndpointSlice pointing at it."""
        while True:
            await self._is_active.wait()
            try:
                found = await self._client.get(path)
                if self._is_active.is_set() and not points_at(found, address):
                    await self._client.patch(path, slice_patch(found, address))
                    _log.info("EndpointSlice points here", slice=self._names.service, address=address)
            except (ApiError, RecordError) as error:
                self._log_change("slice", str(error))
                await asyncio.sleep(_RETRY)
            else:
                self._log_change("slice", None)
                await asyncio.sleep(_CHECK_INTERVAL)

    def _log_change(self, what: str, error: str | None) -> None:
        """Log an error when it begins, changes, or ends."""
        if self._errors.get(what) == error:
            return
        name = self._names.lease if what == "lease" else self._names.service
        if error is None:
            del self._errors[what]
            _log.info("an object of Kubernetes can be used again", kind=what, name=str(name))
        else:
            self._errors[what] = error
            _log.warning("an object of Kubernetes cannot be used", kind=what, name=str(name), error=error)


def _path(name: ObjectName, group: str, plural: str) -> str:
    return f"/apis/{group}/v1/namespaces/{name.namespace}/{plural}/{name.name}"
