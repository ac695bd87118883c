"""Puts a router of a group together: the agent, and its line to the cluster where there is one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from egress_router.standby.agent import Agent
from egress_router.standby.protocol.timing import DEFAULT

if TYPE_CHECKING:
    from egress_router.settings.standby import StandbySettings
    from egress_router.standby.network import StandbyNetwork


def assemble(network: StandbyNetwork, settings: StandbySettings) -> Agent:
    """Return the agent, to be started.

    Raises:
        RefusedError: an object of a cluster is named, and this is no pod of one.
    """
    if settings.lease is None and settings.service is None:
        return Agent(network.config, network.fence, network.number)
    from egress_router.standby.kubernetes.client import ApiThread, Cluster  # noqa: PLC0415 (an HTTP client, 10 MB)

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
