"""The entry of the program: turns a command line into one call, and its errors into an exit status.

Each command imports its package only when it runs: `setup` in an init container need not load a web server.
"""

from __future__ import annotations

import sys

from egress_router.service import signals

if sys.argv[1:2] in (["http-proxy"], ["dns-proxy"]) and not "".join(sys.argv[2:3]).isalpha():
    signals.hold()  # before all else: the imports below take a tenth of a second

# isort: split
from typing import TYPE_CHECKING

from egress_router.commands.command_line import make_parser
from egress_router.commands.exit_status import exit_with
from egress_router.settings.catalogue import VARIABLES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence


_TOOLS = frozenset({"check", "explain", "convert", "status", "demo", "completion"})


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that `argv` (default: the process's arguments) names, and exit with its status."""
    arguments = make_parser().parse_args(_without_service(sys.argv[1:] if argv is None else argv))
    run: Callable[[argparse.Namespace], int] = arguments.run
    exit_with(lambda: run(arguments))


def _without_service(words: Sequence[str]) -> Sequence[str]:
    """Return the words without a service that stands before a tool.

    An image's entry point names its service; `docker run IMAGE check FILE` asks for the tool.
    """
    return words[1:] if words[:1] and words[0] in VARIABLES and not _TOOLS.isdisjoint(words[1:2]) else words
