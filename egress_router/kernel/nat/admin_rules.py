"""The administrator's rules in the kernel: puts those of the file in force, and reads all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import ConfigError, Problem
from egress_router.grammar.lines import rule_lines
from egress_router.kernel.nat import admin_chain, nft, nftables

if TYPE_CHECKING:
    from egress_router.grammar.lines import Line

_EXPECTED = "one nft statement, as `ip daddr 203.0.113.25 tcp dport 5432 limit rate over 20/second drop`"
_log = log.get("kernel")


@dataclass(frozen=True, slots=True)
class FileRules:
    """The statements of the file, which nft accepts, for what leaves by `interface`."""

    statements: tuple[str, ...]
    interface: str


def check(source: str, text: str, interface: str) -> FileRules:
    """Return the lines of `text` if nft accepts all of them; nothing is changed.

    `source` names them in errors.

    Raises:
        ConfigError: nft does not accept all lines.
        RefusedError: there is no `nft`, or no permission.
    """
    lines = list(rule_lines(text))
    wrong = [(line, admin_chain.fault(line.text)) for line in lines]
    problems = [_problem(source, line, why) for line, why in wrong if why is not None]
    statements = tuple(line.text for line in lines)
    filled = admin_chain.filling(interface, statements)
    done = None if problems else nft.run("--check", "-f", "-", text=filled)
    if done is not None and done.returncode:
        refused = admin_chain.faults(done.stderr, filled, statements)
        if not refused:
            raise nftables.refusal(done.stderr)
        problems = [_problem(source, lines[index], why) for index, why in refused]
    if problems:
        raise ConfigError(problems)
    return FileRules(statements, interface)


def _problem(source: str, line: Line, why: str) -> Problem:
    return Problem(source, line.number, line.text, f"{why}; expected {_EXPECTED}")


def put_in_force(rules: FileRules) -> bool:
    """Make these the rules of the file's chain, all or none; return whether that changed anything.

    If the chain holds the same rules already, it stays as it is, with its counters.

    Raises:
        RefusedError: the kernel refuses; nothing has changed.
    """
    before = _listed()
    if admin_chain.is_filled(before, rules.statements):
        return False
    nftables.execute(admin_chain.filling(rules.interface, rules.statements, before))
    if admin_chain.is_old(before):
        _take_over()
    return True


def _take_over() -> None:
    """Remove from the administrator's chain what an earlier version put there: the file has its own now."""
    moved = admin_chain.takeover(_listed("--handle", "--stateless"))
    if moved:
        nftables.execute(moved)
        _log.info("rules of the file are in a chain of their own now", chain=admin_chain.FILE_CHAIN)


def read() -> tuple[admin_chain.AdminRule, ...]:
    """Return the rules of both chains with their counters; none if the chains do not exist."""
    return admin_chain.parsed(_listed())


def _listed(*options: str) -> str:
    """Return nft's listing of the administrator's table; empty if there is none."""
    done = nft.run(*options, "list", "table", "inet", admin_chain.TABLE)
    return done.stdout if done.returncode == 0 else ""
