"""The administrator's chain in the kernel: filled from a file, and read with its counters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.errors import ConfigError, Problem
from egress_router.grammar.lines import rule_lines
from egress_router.kernel.nat import admin_chain, nft, nftables

if TYPE_CHECKING:
    from egress_router.grammar.lines import Line

_EXPECTED = "one nft statement, as `ip daddr 203.0.113.25 tcp dport 5432 limit rate over 20/second drop`"


def check(source: str, text: str, interface: str) -> str:
    """Return the transaction that makes the lines of `text` the rules of the chain; nothing changes yet.

    `source` names them in errors.

    Raises:
        ConfigError: nft does not take all lines.
        RefusedError: there is no `nft`, or no permission.
    """
    lines = list(rule_lines(text))
    wrong = [(line, admin_chain.fault(line.text)) for line in lines]
    problems = [_problem(source, line, why) for line, why in wrong if why is not None]
    statements = [line.text for line in lines]
    filled = admin_chain.filling(interface, statements)
    done = None if problems else nft.run("--check", "-f", "-", text=filled)
    if done is not None and done.returncode:
        refused = admin_chain.faults(done.stderr, filled, statements)
        if not refused:
            raise nftables.refusal(done.stderr)
        problems = [_problem(source, lines[index], why) for index, why in refused]
    if problems:
        raise ConfigError(problems)
    return filled


def fill(source: str, text: str, interface: str) -> None:
    """Make the lines of `text` the rules of the chain, all of them or none.

    Raises:
        ConfigError, RefusedError: as `check`; nothing has changed.
    """
    nftables.execute(check(source, text, interface))


def _problem(source: str, line: Line, why: str) -> Problem:
    return Problem(source, line.number, line.text, f"{why}; expected {_EXPECTED}")


def read() -> tuple[admin_chain.AdminRule, ...]:
    """Return the rules of the chain with their counters; none where it is not there."""
    done = nft.run("list", "chain", "inet", admin_chain.TABLE, admin_chain.NAME)
    return admin_chain.parsed(done.stdout) if done.returncode == 0 else ()
