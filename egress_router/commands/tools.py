"""The commands that people run. Each imports its package only when it runs."""

from __future__ import annotations

import functools
import os
import sys
from typing import TYPE_CHECKING

from egress_router.errors import (
    CONFIGURATION_ERROR,
    DONE,
    REFUSED,
    ConfigError,
    Problem,
    RefusedError,
)
from egress_router.grammar.kinds import KINDS
from egress_router.terminal import say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence


def check(arguments: argparse.Namespace) -> int:
    """Check rules, or manifests."""
    from egress_router import check  # noqa: PLC0415

    kind, paths = _kind_and_files(arguments.words)
    if not paths:
        say(f"egress-router check: expected [{'|'.join(KINDS)}] FILE…", sys.stderr)
        return 2
    found = check.run(kind, [(path, functools.partial(_read, path)) for path in paths], os.environ)
    if arguments.output == "json":
        say(check.as_json(found.tables, found.warnings, found.errors), end="")
    elif found.tables:
        say(check.as_text(found.tables), end="")
    for error in found.errors:
        say(error.text(), sys.stderr)
    for warning in found.warnings:
        say(warning.text("warning: "), sys.stderr)
    return CONFIGURATION_ERROR if found.errors or (arguments.strict and found.warnings) else DONE


def _kind_and_files(words: list[str]) -> tuple[str | None, list[str]]:
    return (words[0], words[1:]) if words[0] in KINDS else (None, words)


def _run_tool(run: Callable[[], int], files: Sequence[str] = (), *, as_json: bool = False) -> int:
    """Run a tool; its errors begin with file and line, and with `as_json` they are printed as JSON, too."""
    from egress_router import check  # noqa: PLC0415

    try:
        return run()
    except ConfigError as error:
        found, status = check.placed(error.problems, files), CONFIGURATION_ERROR
    except RefusedError as error:
        found, status = check.placed([Problem(error.what, None, None, error.remedy)], ()), REFUSED
    if as_json:
        say(check.as_json((), (), found), end="")
    for each in found:
        say(each.text(), sys.stderr)
    return status


def explain(arguments: argparse.Namespace) -> int:
    """Say which line of a list decides, and why."""
    files = [each for each in (arguments.file, arguments.policy) if each is not None]
    return _run_tool(lambda: _explain(arguments), files, as_json=arguments.output == "json")


def _explain(arguments: argparse.Namespace) -> int:
    from egress_router import explain  # noqa: PLC0415
    from egress_router.manifests import egress_policy  # noqa: PLC0415
    from egress_router.metrics import Registry  # noqa: PLC0415
    from egress_router.names.resolver import Resolver  # noqa: PLC0415
    from egress_router.settings.names import NamesSettings  # noqa: PLC0415
    from egress_router.settings.table import read_all  # noqa: PLC0415

    path: str | None = arguments.policy
    policy = None if path is None else egress_policy.parse(path, _read(path))
    names = functools.partial(Resolver, read_all(NamesSettings, os.environ), Registry())
    found = explain.Explainer(policy, names).explain(
        arguments.file,
        _read(arguments.file),
        arguments.target,
        resolve=arguments.resolve,
        sni=arguments.sni,
    )
    say(explain.as_json(found) if arguments.output == "json" else explain.as_text(found))
    is_allowed = found.outcome is explain.Outcome.ALLOWED
    return CONFIGURATION_ERROR if arguments.exit_code and not is_allowed else DONE


def convert(arguments: argparse.Namespace) -> int:
    """Print what an EgressRouter of OpenShift 4 becomes."""
    return _run_tool(lambda: _convert(arguments), [arguments.file])


def _convert(arguments: argparse.Namespace) -> int:
    from egress_router import convert  # noqa: PLC0415

    path: str = arguments.file
    say(convert.converted(path, _read(path), convert.Form(arguments.to)), end="")
    return DONE


def completion(arguments: argparse.Namespace) -> int:
    """Print what a shell reads to complete the command line."""
    from egress_router import completion  # noqa: PLC0415

    say(completion.script(arguments.shell, arguments.parser, KINDS), end="")
    return DONE


def _read(path: str) -> str:
    """Return the text of a file, or of standard input for `-`."""
    is_input = path == "-"
    try:
        with open(0 if is_input else path, "rb", closefd=not is_input) as file:
            return file.read().decode("utf-8")
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 text (byte {error.start})"
    raise ConfigError([Problem("standard input" if is_input else path, None, None, reason)])


def status(arguments: argparse.Namespace) -> int:
    """Show what a running router knows."""
    return _run_tool(lambda: _status(arguments), as_json=arguments.output == "json")


def _status(arguments: argparse.Namespace) -> int:
    from egress_router import status  # noqa: PLC0415

    return status.show(
        arguments.url, watch=arguments.watch, health_only=arguments.health, as_json=arguments.output == "json"
    )


def demo(_: argparse.Namespace) -> int:
    """Build a small network and show the modes in it."""
    from egress_router.lab.demo.__main__ import run  # noqa: PLC0415

    return run()
