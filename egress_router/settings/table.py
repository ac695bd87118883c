"""Settings as tables: a field of a frozen dataclass names the variable that it is read from, once.

The value, `--help`, the check of manifests and the test of docs/operating.md all come from that field, so a
new setting takes one edit, and its row in the manual.

    @dataclass(frozen=True, slots=True)
    class Limits:
        workers: int = setting(Variable("EGRESS_WORKERS", "processes", "1", whole(1, 64)))
"""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from egress_router.settings.variables import Environment, required

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from _typeshed import DataclassInstance

    from egress_router.settings.variables import RulesSource, RulesVariable, Variable

T = TypeVar("T")
_KEY = "egress_router"


@dataclass(frozen=True, slots=True)
class _Reading(Generic[T]):
    """How a field is read, and from which variables."""

    read: Callable[[Environment], T | None]
    variables: tuple[Variable[object] | RulesVariable, ...]
    is_group: bool = False


def setting(variable: Variable[T]) -> T:
    """Declare a field that is read from this variable; a table that is made by hand gets its default."""
    reading = _Reading(lambda environment: environment.read(variable), (variable,))
    default = variable.default
    return _field(reading, None if default is None else lambda: variable.parse(default))


def rules(variable: RulesVariable) -> RulesSource:
    """Declare a field for required rules, which come inline or from a file."""
    return cast("RulesSource", optional_rules(variable))


def optional_rules(variable: RulesVariable) -> RulesSource | None:
    """Declare a field for rules, which may be missing if the variable is not required."""
    return _field(_Reading(lambda environment: environment.read_rules(variable), (variable,)))


def group(table: type[T]) -> T:
    """Declare a field that is a table of its own."""
    return _field(_Reading(lambda environment: read(table, environment), variables(table), True))


def derived(read_it: Callable[[Environment], T | None], *sources: Variable[Any] | RulesVariable) -> T:
    """Declare a field that is made from several variables; `read_it` reports what does not fit."""
    return _field(_Reading(read_it, sources))


def read(table: type[T], environment: Environment) -> T | None:
    """Read a table from the environment; None if something is wrong, which `finish` reports."""
    found = environment.problem_count
    values = {each.name: reading.read(environment) for each, reading in _readings(table)}
    return None if environment.problem_count > found else table(**values)


def read_all(table: type[T], environ: Mapping[str, str]) -> T:
    """Read a table from the environment.

    Raises:
        ConfigError: with everything that is missing or wrong.
    """
    environment = Environment(environ)
    settings = read(table, environment)
    return environment.finish(lambda: required(settings))


def variables(table: type[object]) -> tuple[Variable[object] | RulesVariable, ...]:
    """Return the variables of a table, in the order of its fields, those of groups last; each once."""
    readings = sorted((reading for _, reading in _readings(table)), key=lambda each: each.is_group)
    found = (variable for reading in readings for variable in reading.variables)
    return tuple({variable.name: variable for variable in found}.values())


def _field(reading: _Reading[T], default: Callable[[], T] | None = None) -> T:
    # As `dataclasses.field` does, this tells the type checker that it returns the field's value.
    declared: Any = field(
        default_factory=MISSING if default is None else default,
        kw_only=True,
        metadata={_KEY: reading},
    )
    return cast("T", declared)


def _readings(table: type[object]) -> Iterator[tuple[Field[Any], _Reading[Any]]]:
    for each in fields(cast("type[DataclassInstance]", table)):
        reading = each.metadata.get(_KEY)
        if isinstance(reading, _Reading):
            yield each, reading
