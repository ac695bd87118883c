"""Turns errors into exit statuses.

0 done, 1 a configuration error, 2 a wrong command line (argparse), 3 the kernel or the network refused.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from egress_router.errors import (
    CONFIGURATION_ERROR,
    DONE,
    REFUSED,
    ConfigError,
    RefusedError,
)
from egress_router.settings.chart import chart_values, with_chart_values
from egress_router.terminal import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.errors import EgressRouterError


def exit_with(run: Callable[[], int]) -> NoReturn:
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
