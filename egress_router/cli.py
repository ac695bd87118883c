"""Command line to one call each, and errors to exit statuses.

0 done, 1 a configuration error, 2 a wrong command line (argparse), 3 the kernel or the network refused.
Each command imports its room only when it runs: `setup` in an init container need not load a web server.
"""

from __future__ import annotations

import sys

from egress_router.service import signals

if sys.argv[1:2] in (["http-proxy"], ["dns-proxy"]) and not "".join(sys.argv[2:3]).isalpha():
    signals.hold()  # first of all: what follows takes a tenth of a second to load

# isort: split
import os
from typing import TYPE_CHECKING

from egress_router.commands.command_line import make_parser
from egress_router.errors import (
    CONFIGURATION_ERROR,
    DONE,
    REFUSED,
    ConfigError,
    EgressRouterError,
    RefusedError,
)
from egress_router.settings.catalogue import VARIABLES
from egress_router.settings.chart import chart_values, with_chart_values
from egress_router.terminal import say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence


_TOOLS = frozenset({"check", "explain", "convert", "status", "demo", "completion"})


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that `argv` (default: the process's arguments) names, and exit with its status."""
    arguments = make_parser().parse_args(_asked(sys.argv[1:] if argv is None else argv))
    run: Callable[[argparse.Namespace], int] = arguments.run
    exit_with(lambda: run(arguments))


def _asked(words: Sequence[str]) -> Sequence[str]:
    """Return the words without a service before a tool.

    An image's entry point names its service; `docker run IMAGE check FILE` asks for the tool.
    """
    return words[1:] if words[:1] and words[0] in VARIABLES and not _TOOLS.isdisjoint(words[1:2]) else words


def exit_with(run: Callable[[], int]) -> None:
    """Exit with the status that `run` returns, or with that of the error that it raises."""
    try:
        status = run()
    except ConfigError as error:
        _complain(error)
        status = CONFIGURATION_ERROR
    except RefusedError as error:
        _complain(error)
        status = REFUSED
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = DONE
    except KeyboardInterrupt:
        status = 130  # what a shell reports for SIGINT
    sys.exit(status)


def _complain(error: EgressRouterError) -> None:
    say(with_chart_values(str(error), chart_values(os.environ)), sys.stderr)
