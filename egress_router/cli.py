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
import argparse
import functools
import logging
import os
import textwrap
from importlib.metadata import version
from typing import TYPE_CHECKING, NoReturn, TypeVar

from egress_router import log
from egress_router.errors import ConfigError, EgressRouterError, Problem, RefusedError
from egress_router.settings import dns_proxy as dns_settings
from egress_router.settings import http_proxy as http_settings
from egress_router.settings import setup as setup_settings
from egress_router.settings.catalogue import VARIABLES, warn_of_unknown
from egress_router.settings.chart import chart_values, with_chart_values
from egress_router.settings.common import ADMIN_PORT
from egress_router.settings.names import SERVERS as NAME_SERVERS
from egress_router.settings.policy import POLICY, policy_parser, refuse_unenforced
from egress_router.settings.variables import RulesVariable, non_empty, read_with_rules
from egress_router.terminal import say, visible_lines

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from egress_router.service.mode import Mode
    from egress_router.service.view import ServeAdministration
    from egress_router.settings.common import ProxySettings
    from egress_router.settings.variables import Source, Variable

Rules = TypeVar("Rules")
DONE, CONFIGURATION_ERROR, REFUSED = 0, 1, 3
_TOOLS = frozenset({"check", "explain", "convert", "status", "demo", "completion"})
_KINDS = ("redirect", "http-proxy", "dns-proxy")
_CHECK_EXAMPLES = """\
Examples:
    egress-router check redirect destinations.txt    the rules as a table, or all errors
    egress-router check pod.yaml rules.yaml          every EGRESS_* variable, also in ConfigMaps
    egress-router check policy.yaml                  an EgressNetworkPolicy, EgressFirewall or EgressRouter
    kubectl get pods -o yaml | egress-router check -

Exit status: 0 all is right, 1 something is wrong, or there was nothing to check."""


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


class _Parser(argparse.ArgumentParser):
    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """See `argparse`; its messages repeat arguments as they are."""
        super().exit(status, message and visible_lines(message))


def _complain(error: EgressRouterError) -> None:
    say(with_chart_values(str(error), chart_values(os.environ)), sys.stderr)


def make_parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = _Parser(
        prog="egress-router",
        description="Gives pods one fixed source address towards the outside.",
        epilog=_variables_text("Environment of all commands, by command", VARIABLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('egress-router')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_services(commands)
    _add_tools(commands)
    return parser


def _add_services(commands: argparse._SubParsersAction[_Parser]) -> None:
    _add(
        commands,
        "setup",
        "claim the source address; set routes and NAT rules",
        _setup,
        setup_settings.VARIABLES,
    )
    _add(commands, "http-proxy", "run the HTTP forward proxy", _http_proxy, http_settings.VARIABLES)
    _add(commands, "dns-proxy", "run the TCP forwarder", _dns_proxy, dns_settings.VARIABLES)


def _add_tools(commands: argparse._SubParsersAction[_Parser]) -> None:
    check = _add(commands, "check", "check rules, or every EGRESS_* variable of Kubernetes manifests", _check)
    check.usage = f"%(prog)s [-h] [--strict] [--output {{text,json}}] [{{{','.join(_KINDS)}}}] FILE…"
    check.epilog = _CHECK_EXAMPLES
    check.add_argument(
        "words",
        nargs="+",
        metavar="FILE",
        help="rules of the kind before it; without a kind, Kubernetes manifests, egress policies and"
        " EgressRouters, which belong together where there are several; `-`: standard input",
    )
    _add_output(check)
    check.add_argument(
        "--strict", action="store_true", help="exit with 1 on warnings, too: lines that can never act"
    )
    explain = _add(
        commands,
        "explain",
        "say which line of an allow/deny list decides, and why",
        _explain,
        (NAME_SERVERS,),
    )
    explain.add_argument("file", metavar="FILE", help="an allow/deny list; `-`: standard input")
    explain.add_argument("target", metavar="URL-or-host[:port]", help="what a client would ask for")
    explain.add_argument("--resolve", action="store_true", help="look the name up and judge its addresses")
    explain.add_argument(
        "--policy",
        metavar="FILE",
        help="an egress policy (EgressNetworkPolicy, EgressFirewall) behind the list",
    )
    explain.add_argument(
        "--sni",
        metavar="NAME",
        help="the name in the ClientHello of a CONNECT to the target, for EGRESS_HTTP_PROXY_SNI=enforce",
    )
    explain.add_argument(
        "--exit-code", action="store_true", help="exit with 1 unless the answer is that it is allowed"
    )
    _add_output(explain)
    convert = _add(
        commands, "convert", "print what an EgressRouter resource of OpenShift 4 becomes", _convert
    )
    convert.add_argument("file", metavar="FILE", help="the resource, JSON or YAML; `-`: standard input")
    convert.add_argument(
        "--to",
        choices=("values", "manifest"),
        default="values",
        help="values of the Helm chart (default), or a manifest for kubectl",
    )
    status = _add(
        commands,
        "status",
        "show what a running router knows; exit status 3 where it is not ready",
        _status,
        (ADMIN_PORT,),
    )
    status.add_argument(
        "--url", default=None, help="administration endpoint (default: EGRESS_ADMIN_PORT here)"
    )
    status.add_argument("--watch", action="store_true", help="refresh every 2 s until interrupted")
    _add_output(status)
    status.add_argument(
        "--health",
        action="store_true",
        help="exit status 3 only where the router is not healthy, for the health check of a container engine",
    )
    completion = _add(
        commands, "completion", "print what a shell reads to complete this command line", _completion
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")
    _add(commands, "demo", "build a small network on this machine and show the modes in it", _demo)


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--output", choices=("text", "json"), default="text", help="tables for people (default), or JSON"
    )


def _add(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    meaning: str,
    run: Callable[[argparse.Namespace], int],
    variables: Sequence[Variable[object] | RulesVariable] = (),
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=meaning,
        description=meaning[0].upper() + meaning[1:] + ".",
        epilog=_variables_text("Environment", {"": variables}) if variables else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _variables_text(title: str, groups: dict[str, Sequence[Variable[object] | RulesVariable]]) -> str:
    lines = [f"{title}:"]
    for group, variables in groups.items():
        if group:
            lines += ["", f"  {group}"]
        for variable in variables:
            lines += _variable_lines(variable)
    return "\n".join(lines)


def _variable_lines(variable: Variable[object] | RulesVariable) -> list[str]:
    if isinstance(variable, RulesVariable):
        name = f"{variable.name}, or a file in {variable.file_name}"
        remark = " (required)" if variable.required else ""
    else:
        name = variable.name
        nothing = "off" if variable.parse is non_empty else "none"
        remark = " (required)" if variable.default is None else f" (default: {variable.default or nothing})"
    text = variable.meaning + remark
    return [f"    {name}", *textwrap.wrap(text, 92, initial_indent=" " * 8, subsequent_indent=" " * 8)]


def _log_to_stderr(form: log.LogFormat, level: str) -> None:
    log.configure(logging.StreamHandler(sys.stderr), form, level)


def _setup(_: argparse.Namespace) -> int:
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
    from egress_router import setup  # noqa: PLC0415 (see the module's docstring)

    established = setup.run(settings)
    if settings.mode is setup_settings.RouterMode.LEGACY and settings.source is not None:
        from egress_router.redirect.server import stay  # noqa: PLC0415

        stay(settings, settings.source, established)
    elif (
        established.stand is not None
        and settings.standby is not None
        # Then the router that comes after it keeps the fence, which is up and closed.
        and settings.mode is not setup_settings.RouterMode.NETWORK
    ):
        from egress_router.standby import server  # noqa: PLC0415

        server.stay(established.stand, settings.standby)
    elif established.holdings is not None:
        setup.finish(established.holdings)
    return DONE


def _http_proxy(_: argparse.Namespace) -> int:
    settings = read_with_rules(
        os.environ,
        http_settings.read_http_proxy,
        (http_settings.RULES, http_settings.rules_parser),
        (POLICY, policy_parser),
    )
    from egress_router.http_proxy.server import mode  # noqa: PLC0415

    return run_service(mode(settings), settings.proxy, settings.source)


def _dns_proxy(_: argparse.Namespace) -> int:
    settings = read_with_rules(
        os.environ,
        dns_settings.read_dns_proxy,
        (dns_settings.RULES, dns_settings.rules_parser),
        (POLICY, policy_parser),
    )
    from egress_router.dns_proxy.server import mode  # noqa: PLC0415

    return run_service(mode(settings), settings.proxy, settings.source)


def run_service(mode: Mode[Rules], settings: ProxySettings, rules: Source) -> int:
    """Be the supervisor of a mode; its workers are copies of this process."""
    from egress_router.service import supervisor, worker  # noqa: PLC0415

    def work(control: socket.socket) -> int:
        return exit_with(lambda: worker.run(mode, settings, control))

    def administration() -> ServeAdministration:
        from egress_router.admin.app import serve  # noqa: PLC0415

        return serve

    return supervisor.run(mode, settings, rules, work, administration)


def _check(arguments: argparse.Namespace) -> int:
    from egress_router import check  # noqa: PLC0415

    kind, paths = _kind_and_files(arguments.words)
    if not paths:
        say(f"egress-router check: expected [{'|'.join(_KINDS)}] FILE…", sys.stderr)
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
    return (words[0], words[1:]) if words[0] in _KINDS else (None, words)


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


def _convert(arguments: argparse.Namespace) -> int:
    from egress_router import convert  # noqa: PLC0415

    path: str = arguments.file
    say(convert.converted(path, _read(path), convert.Form(arguments.to)), end="")
    return DONE


def _completion(arguments: argparse.Namespace) -> int:
    from egress_router import completion  # noqa: PLC0415

    say(completion.script(arguments.shell, make_parser(), _KINDS), end="")
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


def _status(arguments: argparse.Namespace) -> int:
    from egress_router import status  # noqa: PLC0415

    return status.show(
        arguments.url, watch=arguments.watch, health_only=arguments.health, as_json=arguments.output == "json"
    )


def _demo(_: argparse.Namespace) -> int:
    from egress_router.lab.demo.__main__ import run  # noqa: PLC0415

    return run()
