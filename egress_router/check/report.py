"""What `check` found, for people as tables and for programs as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from egress_router.terminal import table, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.errors import Problem

Rows = list[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one kind; the first one is the head. `name` is the key under which JSON has them."""

    name: str
    rows: Rows


@dataclass(frozen=True, slots=True)
class Finding:
    """An error or a warning, and the file in which it is."""

    file: str
    problem: Problem

    def text(self, mark: str = "") -> str:
        """Return it as compilers write it, after file and line (and a mark), so editors can jump there."""
        file = "stdin" if self.file == "-" else self.file
        if self.problem.source == "standard input":
            return f"{mark}{self.problem}"
        place = file if self.problem.line is None else f"{file}:{self.problem.line}"
        return f"{place}: {mark}{self.problem.said if self.problem.source == self.file else self.problem}"

    def as_object(self) -> dict[str, object]:
        """Return it as JSON has it."""
        found = asdict(self.problem)
        message = found.pop("reason")
        return {"file": self.file, **found, "message": message}


@dataclass(frozen=True, slots=True)
class Report:
    """What was found if nothing is wrong: tables, and the lines that can never act."""

    tables: tuple[Table, ...]
    warnings: tuple[Problem, ...] = ()

    @property
    def text(self) -> str:
        """The tables as text."""
        return as_text(self.tables)


def as_text(tables: Sequence[Table]) -> str:
    """Return tables as text, with their names where there are several."""
    if len(tables) == 1:
        return table(tables[0].rows)
    return "\n".join(f"{visible(each.name)}\n{table(each.rows)}" for each in tables)


def as_json(tables: Sequence[Table], warnings: Sequence[Finding], errors: Sequence[Finding]) -> str:
    """Return one JSON document: each table as a list of objects, then warnings and errors."""
    document: dict[str, object] = {_key(each.name): _objects(each.rows) for each in tables}
    document["warnings"] = [each.as_object() for each in warnings]
    document["errors"] = [each.as_object() for each in errors]
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _key(name: str) -> str:
    """Return the key of a table in JSON; a file named like another key gets a path."""
    return f"./{name}" if name in {"warnings", "errors"} else name


def _objects(rows: Rows) -> list[dict[str, str]]:
    head = [name.lower().replace(" ", "_") for name in rows[0]]
    return [dict(zip(head, row, strict=True)) for row in rows[1:]]
