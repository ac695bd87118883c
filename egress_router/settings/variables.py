"""How one environment variable is described and read.

A `Variable` holds both its line in `--help` and its parser, so neither can be missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from egress_router.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    # Makes the parser of rules for an environment; None: this environment uses no rules.
    RulesParser: TypeAlias = Callable[[Mapping[str, str]], Callable[[str, str], object] | None]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Variable(Generic[T_co]):
    """One setting: its name, what it means, the default as text (None: required), and how its text is read.

    `parse` raises ValueError with a sentence that says what is wrong and what was expected.
    """

    name: str
    meaning: str
    default: str | None
    parse: Callable[[str], T_co]


@dataclass(frozen=True, slots=True)
class RulesVariable:
    """A pair of variables for rules: the text itself in `name`, or a file that holds it in `name`_FILE."""

    name: str
    meaning: str
    required: bool = True

    @property
    def file_name(self) -> str:
        """The variable that names the file."""
        return f"{self.name}_FILE"


class Source(Protocol):
    """Where rules come from; `paths` are the files that may change."""

    @property
    def name(self) -> str:
        """How errors name this source."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that are read; none if the rules are inline and never change."""

    def read(self) -> str:
        """Return the rules' text as it is now, or raise ConfigError."""


@dataclass(frozen=True, slots=True)
class RulesSource:
    """Where rules come from: inline text, or a file that may change while the program runs."""

    variable: str
    text: str
    path: Path | None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file, if there is one."""
        return () if self.path is None else (self.path,)

    def read(self) -> str:
        """Return the rules' text as it is now.

        Raises:
            ConfigError: the file cannot be read or is not UTF-8.
        """
        if self.path is None:
            return self.text
        try:
            return self.path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError([self._problem(f"cannot be read: {error.strerror}")]) from None
        except UnicodeDecodeError as error:
            raise ConfigError([self._problem(f"is not UTF-8 text (byte {error.start})")]) from None

    @property
    def name(self) -> str:
        """How errors name this source: the variable, with the file if there is one."""
        return self.variable if self.path is None else f"{self.variable} {self.path}"

    def _problem(self, reason: str) -> Problem:
        return Problem(self.variable, None, str(self.path), reason)


class Environment:
    """Reads variables out of `environ` and collects what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._problems: list[Problem] = []

    @property
    def problem_count(self) -> int:
        """How many things were found wrong so far."""
        return len(self._problems)

    def read(self, variable: Variable[T]) -> T | None:
        """Return the parsed value; None if it is missing or wrong, which `finish` reports.

        An empty value counts as not set: manifests often write `value: ""` for "use the default".
        """
        given = self._environ.get(variable.name, "")
        text = given if variable.parse is non_empty else given.strip() or variable.default
        if text is None:
            self._problems.append(Problem(variable.name, None, None, f"is not set ({variable.meaning})"))
            return None
        try:
            return variable.parse(text)
        except ValueError as error:
            self._problems.append(Problem(variable.name, None, text, str(error)))
            return None

    def peek(self, variable: Variable[T]) -> T | None:
        """Return a value that is read elsewhere, to compare it; None if it is missing or wrong."""
        return Environment(self._environ).read(variable)

    def has(self, variable: RulesVariable) -> bool:
        """Say whether rules are given, inline or as a file."""
        return any(self._environ.get(name, "").strip() for name in (variable.name, variable.file_name))

    def read_rules(self, variable: RulesVariable) -> RulesSource | None:
        """Return where the rules are; None if they are not given at all."""
        inline = self._environ.get(variable.name, "")
        path = self._environ.get(variable.file_name, "").strip()
        if inline.strip() and path:
            both = f"is set together with {variable.file_name}; give one of the two"
            self._problems.append(Problem(variable.name, None, None, both))
        elif path:
            return RulesSource(variable.file_name, "", Path(path))
        elif inline.strip():
            return RulesSource(variable.name, inline, None)
        elif variable.required:
            missing = f"is not set, nor is {variable.file_name} ({variable.meaning})"
            self._problems.append(Problem(variable.name, None, None, missing))
        return None

    def reject(self, problem: Problem) -> None:
        """Add a fault that is seen only by comparing several settings."""
        self._problems.append(problem)

    def finish(self, complete: Callable[[], T]) -> T:
        """Return `complete()`, which builds the settings from what was read.

        Raises:
            ConfigError: something was missing or wrong; it holds every problem.
        """
        if self._problems:
            raise ConfigError(self._problems)
        return complete()


def read_with_rules(
    environ: Mapping[str, str],
    read: Callable[[Mapping[str, str]], T],
    *rules: tuple[RulesVariable, RulesParser],
) -> T:
    """Return `read(environ)`; if it fails, check the rules too, to report all errors at once.

    If it does not fail, the rules are left to whoever needs them. Each variable of rules comes with a
    function that makes their parser for this environment; None: it uses no rules.

    Raises:
        ConfigError: with everything that is wrong with settings and rules.
    """
    try:
        return read(environ)
    except ConfigError as error:
        problems = [*error.problems]
    for variable, parser in rules:
        source, parse = Environment(environ).read_rules(replace(variable, required=False)), parser(environ)
        if source is not None and parse is not None:
            try:
                parse(source.name, source.read())
            except ConfigError as error:
                problems += error.problems
    raise ConfigError(problems)


def required(value: T | None) -> T:
    """Return a value of which `Environment.finish` has checked that it is there."""
    if value is None:
        raise AssertionError("read() noted no problem and returned nothing")
    return value


def each(text: str, parse: Callable[[str], T]) -> list[T]:
    """Read parts that commas separate; ValueError with everything that is wrong with them."""
    found, wrong = [], []
    for part in text.split(","):
        try:
            found.append(parse(part.strip()))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError("; ".join(wrong))
    return found


def seconds(text: str) -> float:
    """Read a positive number of seconds."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError("expected a number of seconds") from None
    if not 0 < value <= 10_000_000:
        raise ValueError("expected a number of seconds above 0")
    return value


def whole(low: int, high: int) -> Callable[[str], int]:
    """Read a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        # Not more digits than any limit has: `int` takes long for very many.
        if not (text.isascii() and text.isdecimal() and len(text) <= 20 and low <= int(text) <= high):
            raise ValueError(f"expected a whole number from {low} to {high}")
        return int(text)

    return parse


def flag(text: str) -> bool:
    """Read an on/off setting of this project's own: 1, true, yes, on or 0, false, no, off."""
    word = text.lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off"}:
        return False
    raise ValueError("expected 1 or 0")


def non_empty(text: str) -> bool:
    """Read a switch of OpenShift's egress router, which any non-empty value turns on (`0` too)."""
    return bool(text)


Word = TypeVar("Word", bound=str)


def one_of(*choices: Word) -> Callable[[str], Word]:
    """Read one of a few words."""

    def parse(text: str) -> Word:
        for choice in choices:
            if text == choice:
                return choice
        raise ValueError(f"expected one of {', '.join(choices)}")

    return parse
