"""The command line: commands, their arguments, and the variables that each of them reads."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from egress_router.grammar.kinds import KINDS
from egress_router.settings import dns_proxy as dns_settings
from egress_router.settings import http_proxy as http_settings
from egress_router.settings import setup as setup_settings
from egress_router.settings.catalogue import VARIABLES
from egress_router.settings.common import ADMIN_PORT
from egress_router.settings.names import SERVERS as NAME_SERVERS
from egress_router.settings.variables import RulesVariable, non_empty
from egress_router.terminal import say, visible_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from egress_router.settings.variables import Variable


from egress_router.commands import services, tools

_CHECK_EXAMPLES = """\
Examples:
    egress-router check redirect destinations.txt    the rules as a table, or all errors
    egress-router check pod.yaml rules.yaml          every EGRESS_* variable, also in ConfigMaps
    egress-router check policy.yaml                  an EgressNetworkPolicy, EgressFirewall or EgressRouter
    kubectl get pods -o yaml | egress-router check -

Exit status: 0 all is right, 1 something is wrong, or there was nothing to check."""


_Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"  # noqa: SLF001 (it has no public name)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = _Parser(
        prog="egress-router",
        description="Gives pods one fixed source address towards the outside.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.variables = ("Environment of all commands, by command", VARIABLES)
    parser.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_services(commands)
    _add_tools(commands, parser)
    return parser


def _add_services(commands: _Commands) -> None:
    _add(
        commands,
        "setup",
        "claim the source address; set routes and NAT rules",
        services.setup,
        setup_settings.VARIABLES,
    )
    _add(commands, "http-proxy", "run the HTTP forward proxy", services.http_proxy, http_settings.VARIABLES)
    _add(commands, "dns-proxy", "run the TCP forwarder", services.dns_proxy, dns_settings.VARIABLES)


def _add_tools(commands: _Commands, parser: _Parser) -> None:
    _add_check(commands)
    _add_explain(commands)
    _add_convert(commands)
    _add_status(commands)
    completion = _add(
        commands, "completion", "print what a shell reads to complete this command line", tools.completion
    )
    completion.set_defaults(parser=parser)
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")
    _add(commands, "demo", "build a small network on this machine and show the modes in it", tools.demo)


def _add_check(commands: _Commands) -> None:
    check = _add(
        commands, "check", "check rules, or every EGRESS_* variable of Kubernetes manifests", tools.check
    )
    check.usage = f"%(prog)s [-h] [--strict] [--output {{text,json}}] [{{{','.join(KINDS)}}}] FILE…"
    check.epilog = _CHECK_EXAMPLES
    check.add_argument(
        "words",
        nargs="+",
        metavar="FILE",
        help="rules of the given kind; without a kind, Kubernetes manifests, egress policies and"
        " EgressRouters, several of which are checked together; `-`: standard input",
    )
    _add_output(check)
    check.add_argument(
        "--strict", action="store_true", help="exit with 1 on warnings, too: lines that can never act"
    )


def _add_explain(commands: _Commands) -> None:
    explain = _add(
        commands,
        "explain",
        "say which line of an allow/deny list decides, and why",
        tools.explain,
        (NAME_SERVERS,),
    )
    explain.add_argument("file", metavar="FILE", help="an allow/deny list; `-`: standard input")
    explain.add_argument("target", metavar="URL-or-host[:port]", help="what a client would ask for")
    explain.add_argument("--resolve", action="store_true", help="look the name up and judge its addresses")
    explain.add_argument(
        "--policy",
        metavar="FILE",
        help="an egress policy (EgressNetworkPolicy, EgressFirewall) that applies besides the list",
    )
    explain.add_argument(
        "--sni",
        metavar="NAME",
        help="the name in the ClientHello of a CONNECT to the target, for EGRESS_HTTP_PROXY_SNI=enforce",
    )
    explain.add_argument("--exit-code", action="store_true", help="exit with 1 unless it is allowed")
    _add_output(explain)


def _add_convert(commands: _Commands) -> None:
    convert = _add(
        commands, "convert", "convert an EgressRouter resource of OpenShift 4 and print it", tools.convert
    )
    convert.add_argument("file", metavar="FILE", help="the resource, JSON or YAML; `-`: standard input")
    convert.add_argument(
        "--to",
        choices=("values", "manifest"),
        default="values",
        help="values of the Helm chart (default), or a manifest for kubectl",
    )


def _add_status(commands: _Commands) -> None:
    status = _add(
        commands,
        "status",
        "show what a running router knows; exit status 3 if it is not ready",
        tools.status,
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
        help="exit status 3 only if the router is not healthy, for the health check of a container engine",
    )


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--output", choices=("text", "json"), default="text", help="tables for people (default), or JSON"
    )


def _add(
    commands: _Commands,
    name: str,
    meaning: str,
    run: Callable[[argparse.Namespace], int],
    variables: Sequence[Variable[object] | RulesVariable] = (),
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=meaning,
        description=meaning[0].upper() + meaning[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if variables:
        command.variables = ("Environment", {"": variables})
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


class _Version(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,  # noqa: ARG002 (the signature is argparse's)
        values: object,  # noqa: ARG002
        option_string: str | None = None,  # noqa: ARG002
    ) -> NoReturn:
        from importlib.metadata import version  # noqa: PLC0415 (a fifth of the time that each command takes to load)

        say(f"{parser.prog} {version('egress-router')}")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    # A title, and variables by command. Their text is made only for `--help`: each start would wait for it.
    variables: tuple[str, dict[str, Sequence[Variable[object] | RulesVariable]]] | None = None

    def format_help(self) -> str:
        """See `argparse`; the variables come last."""
        if self.variables is not None:
            self.epilog = _variables_text(*self.variables)
        return super().format_help()

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """See `argparse`; its messages repeat arguments as they are."""
        super().exit(status, message and visible_lines(message))
