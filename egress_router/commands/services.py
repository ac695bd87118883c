"""The commands that run in a pod. Each imports what it needs when it runs: not all need a web server."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, TypeVar

from egress_router import log
from egress_router.commands.exit_status import exit_with
from egress_router.errors import (
    DONE,
)
from egress_router.redirect.intervals import INTERVALS
from egress_router.settings import dns_proxy as dns_settings
from egress_router.settings import http_proxy as http_settings
from egress_router.settings import setup as setup_settings
from egress_router.settings.catalogue import warn_of_unknown
from egress_router.settings.policy import POLICY, policy_parser, refuse_unenforced
from egress_router.settings.variables import read_with_rules

if TYPE_CHECKING:
    import argparse
    import socket

    from egress_router.redirect.intervals import Intervals
    from egress_router.service.mode import Mode
    from egress_router.service.view import ServeAdministration
    from egress_router.settings.common import ProxySettings
    from egress_router.settings.variables import Source


Rules = TypeVar("Rules")


def _log_to_stderr(form: log.LogFormat, level: str) -> None:
    log.configure(logging.StreamHandler(sys.stderr), form, level)


def setup(_: argparse.Namespace) -> int:
    """Claim the source address, set routes and rules; keep running if the mode says so."""
    return set_up(INTERVALS)


def set_up(intervals: Intervals) -> int:
    """Do what `setup` does, with these intervals if it keeps running."""
    settings = read_with_rules(
        os.environ,
        setup_settings.read_setup,
        (setup_settings.RULES, setup_settings.rules_parser),
        (POLICY, setup_settings.policy_parser),
    )
    if not settings.mode.redirects:
        refuse_unenforced(settings.policy, f"setup in mode {settings.mode.value}")
    _log_to_stderr(settings.runtime.log_format, "debug" if settings.debug else settings.runtime.log_level)
    warn_of_unknown(os.environ)
    from egress_router.setup import announcements, steps  # noqa: PLC0415 (see the module's docstring)

    established = steps.run(settings)
    if settings.mode is setup_settings.RouterMode.LEGACY and settings.source is not None:
        from egress_router.redirect.server import stay  # noqa: PLC0415

        stay(settings, settings.source, established, intervals)
    elif (
        established.standby is not None
        and settings.standby is not None
        # In mode `network` the router that starts next keeps the fence, which is up and closed.
        and settings.mode is not setup_settings.RouterMode.NETWORK
    ):
        from egress_router.standby import server  # noqa: PLC0415

        server.stay(established.standby, settings.standby)
    elif established.holdings is not None:
        announcements.finish(established.holdings)
    return DONE


def http_proxy(_: argparse.Namespace) -> int:
    """Run the HTTP forward proxy."""
    settings = read_with_rules(
        os.environ,
        http_settings.read_http_proxy,
        (http_settings.RULES, http_settings.rules_parser),
        (POLICY, policy_parser),
    )
    from egress_router.http_proxy.server import mode  # noqa: PLC0415

    return run_service(mode(settings), settings.proxy, settings.source)


def dns_proxy(_: argparse.Namespace) -> int:
    """Run the TCP forwarder."""
    settings = read_with_rules(
        os.environ,
        dns_settings.read_dns_proxy,
        (dns_settings.RULES, dns_settings.rules_parser),
        (POLICY, policy_parser),
    )
    from egress_router.dns_proxy.server import mode  # noqa: PLC0415

    return run_service(mode(settings), settings.proxy, settings.source)


def run_service(mode: Mode[Rules], settings: ProxySettings, rules: Source) -> int:
    """Run the supervisor of a mode; its workers are forks of this process."""
    from egress_router.service import supervisor, worker  # noqa: PLC0415

    def work(control: socket.socket) -> int:
        return exit_with(lambda: worker.run(mode, settings, control))

    def administration() -> ServeAdministration:
        from egress_router.admin.app import serve  # noqa: PLC0415

        return serve

    return supervisor.run(mode, settings, rules, work, administration)
