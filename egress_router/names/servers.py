"""Which name server is asked next; one that was silent is asked last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router import log
from egress_router.names.answer import Failure, ResolveError
from egress_router.names.transport import Server, ServerError

if TYPE_CHECKING:
    from egress_router.clock import Clock
    from egress_router.names.message import Records
    from egress_router.names.resolv_conf import ResolvConf
    from egress_router.names.transport import Transport
    from egress_router.names.wire import Kind

# Else a first server that is gone would cost every look-up its whole timeout, as with the C library.
_ASKED_LAST_SECONDS = 30.0
_RECENTLY_SECONDS = 1.0  # a server that answered within this time before a question counts as alive
_LOG = log.get("names")


class Servers:
    """Asks the servers one after the other until one of them answers."""

    def __init__(self, transport: Transport, port: int, clock: Clock) -> None:
        self._transport = transport
        self._port = port
        self._clock = clock
        self._turn = 0
        self._silent_until: dict[Server, float] = {}
        self._answered: dict[Server, float] = {}

    async def records(self, conf: ResolvConf, name: str, kind: Kind) -> Records:
        """Return the first definite answer to one question.

        Raises:
            ResolveError: TIMEOUT if every server was silent, SERVER_FAILURE if one of them failed.
        """
        faults: dict[Server, ServerError] = {}
        for server in self._order(conf) * conf.attempts:
            asked = self._clock.monotonic()
            try:
                records = await self._transport.ask(server, name, kind, conf.timeout)
            except ServerError as error:
                faults[server] = error
                if error.silent:
                    self._note_silence(server, asked)
                continue
            self._note_answer(server)
            return records
        silent = all(fault.silent for fault in faults.values())
        reasons = "; ".join(f"{server.address}: {fault}" for server, fault in faults.items())
        raise ResolveError(
            Failure.TIMEOUT if silent else Failure.SERVER_FAILURE, f"{name} cannot be resolved ({reasons})"
        )

    def _order(self, conf: ResolvConf) -> list[Server]:
        servers = [Server(address, self._port) for address in conf.servers]
        if conf.rotate:
            self._turn = (self._turn + 1) % len(servers)
            servers = servers[self._turn :] + servers[: self._turn]
        now = self._clock.monotonic()
        return sorted(servers, key=lambda server: self._silent_until.get(server, 0.0) > now)

    def _note_silence(self, server: Server, asked: float) -> None:
        if self._answered.get(server, 0.0) > asked - _RECENTLY_SECONDS:
            return  # it answered another question meanwhile, so it is alive
        if server not in self._silent_until:
            _LOG.warning("name server does not answer", server=server.address)
        self._silent_until[server] = self._clock.monotonic() + _ASKED_LAST_SECONDS

    def _note_answer(self, server: Server) -> None:
        self._answered[server] = self._clock.monotonic()
        if self._silent_until.pop(server, None) is not None:
            _LOG.info("name server answers again", server=server.address)
