"""The Helm chart's values for the variables that it sets: errors name them, as the reader can change them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from egress_router.settings.variables import Variable

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"\bEGRESS_[A-Z0-9_]+\b")


def _pairs(text: str) -> dict[str, str]:
    found = dict(each.strip().partition("=")[::2] for each in text.split(",") if each.strip())
    if not all(_NAME.fullmatch(name) and value for name, value in found.items()):
        raise ValueError("expected VARIABLE=VALUE,… such as EGRESS_SOURCE=source")
    return found


CHART_VALUES = Variable(
    "EGRESS_CHART_VALUES",
    "for the Helm chart: which value sets which variable (`EGRESS_SOURCE=source,…`); errors name both",
    "",
    _pairs,
)


def chart_values(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the chart's value by variable; empty if they are not given, or not as expected."""
    try:
        return _pairs(environ.get(CHART_VALUES.name, ""))
    except ValueError:
        return {}


def with_chart_values(message: str, values: Mapping[str, str]) -> str:
    """Return a message with the chart's value after each variable that it sets, once a line."""
    return "\n".join(_line(line, values) for line in message.split("\n"))


def _line(line: str, values: Mapping[str, str]) -> str:
    seen: set[str] = set()

    def with_value(found: re.Match[str]) -> str:
        name = found[0]
        if name in seen or name not in values:
            return name
        seen.add(name)
        return f"{name} (chart value {values[name]})"

    return _NAME.sub(with_value, line)
