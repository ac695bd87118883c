"""Checks files and collects what is found in each: a wrong file does not hide the errors of another one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from egress_router.check.manifests import manifests
from egress_router.check.report import Finding, Report
from egress_router.check.rules import checked
from egress_router.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from egress_router.check.report import Table
    from egress_router.errors import Problem


@dataclass(frozen=True, slots=True)
class Found:
    """What all files hold: tables, lines that can never act, and errors."""

    tables: tuple[Table, ...]
    warnings: tuple[Finding, ...]
    errors: tuple[Finding, ...]


def run(
    kind: str | None, files: Sequence[tuple[str, Callable[[], str]]], environ: Mapping[str, str]
) -> Found:
    """Check files, each a name and a function that reads it: rules of a kind, or manifests of one cluster."""
    texts: list[tuple[str, str]] = []
    errors: list[Finding] = []
    for name, read in files:
        try:
            texts.append((name, read()))
        except ConfigError as error:
            errors += [Finding(name, each) for each in error.problems]
    if kind is None:
        return _manifests(texts, errors)
    tables: list[Table] = []
    warnings: list[Finding] = []
    for name, text in texts:
        try:
            report = checked(kind, text, environ)
        except ConfigError as error:
            errors += [Finding(name, each) for each in error.problems]
            continue
        tables += report.tables if len(files) == 1 else [replace(each, name=name) for each in report.tables]
        warnings += [Finding(name, each) for each in report.warnings]
    return Found(tuple(tables), tuple(warnings), tuple(errors))


def _manifests(texts: Sequence[tuple[str, str]], errors: Sequence[Finding]) -> Found:
    files = [name for name, _ in texts]
    try:
        report = manifests(*texts) if texts else Report(())
    except ConfigError as error:
        return Found((), (), (*errors, *placed(error.problems, files)))
    return Found(report.tables, placed(report.warnings, files), tuple(errors))


def placed(problems: Sequence[Problem], files: Sequence[str]) -> tuple[Finding, ...]:
    """Return problems with their files; a problem's source begins with the file's name."""
    return tuple(_placed(each, files) for each in problems)


def _placed(problem: Problem, files: Sequence[str]) -> Finding:
    """Take the file out of a problem's source, which begins with it if several files belong together."""
    for name in files:
        if problem.source.startswith(f"{name} "):
            return Finding(name, replace(problem, source=problem.source.removeprefix(f"{name} ")))
    return Finding(problem.source, problem)
