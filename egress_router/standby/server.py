"""Starts a router of a group: the agent, its API client, and the process that keeps the fence up."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

from egress_router.service import signals
from egress_router.standby.agent import Agent
from egress_router.standby.protocol.timing import DEFAULT

if TYPE_CHECKING:
    from egress_router.settings.standby import StandbySettings
    from egress_router.standby.network import StandbyNetwork


def assemble(network: StandbyNetwork, settings: StandbySettings) -> Agent:
    """Return the agent; the caller starts it.

    Raises:
        RefusedError: a Lease or Service is configured, and this is not a pod of a cluster.
    """
    if settings.lease is None and settings.service is None:
        return Agent(network.config, network.fence, network.number)
    from egress_router.standby.kubernetes.api_thread import ApiThread  # noqa: PLC0415 (HTTP client: 10 MB)
    from egress_router.standby.kubernetes.client import Cluster  # noqa: PLC0415 (the same)

    api = ApiThread(
        Cluster.of_this_pod(os.environ, network.config.mark),
        settings,
        network.dead,
        network.config.pod_address,
        DEFAULT.alone,
    )
    agent = Agent(
        network.config,
        network.fence,
        network.number,
        api.ask if settings.lease is not None else None,
        api.status,
    )
    api.answer, api.trouble = agent.answer, agent.arbiter_trouble
    api.start()
    return agent


def stay(network: StandbyNetwork, settings: StandbySettings) -> None:
    """Keep the fence up until SIGTERM or SIGINT; a second signal ends the process at once.

    Raises:
        RefusedError: a station outside the group has the address, or the kernel refused.
    """
    agent = assemble(network, settings)
    asked = threading.Event()

    def end(_: int, __: object) -> None:
        if asked.is_set():
            os._exit(0)  # an exception would be lost in a `__del__`
        asked.set()
        agent.leave()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    agent.start()
    agent.ended.wait()
    signals.ignore()
    if agent.failure is not None:
        raise agent.failure
