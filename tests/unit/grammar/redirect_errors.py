"""What is wrong with lines of EGRESS_DESTINATION."""

from __future__ import annotations

import pytest

from egress_router.errors import ConfigError
from egress_router.grammar.redirect import Router, parse

SOURCE = "EGRESS_DESTINATION"


def errors(text: str, router: Router | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(SOURCE, text, router or Router())
    return [problem.removeprefix(f"{SOURCE} ") for problem in str(caught.value).splitlines()]
