from __future__ import annotations

import pytest

from egress_router.errors import ConfigError
from egress_router.grammar.lines import Line, Problems, rule_lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("\n  \n\t\n", []),
        ("# only a comment", []),
        ("   # an indented comment", []),
        ("80 tcp 1.2.3.4", [Line(1, "80 tcp 1.2.3.4")]),
        ("\n\n 80 tcp 1.2.3.4 \t\r\n", [Line(3, "80 tcp 1.2.3.4")]),
        ("80 tcp 1.2.3.4 # the bank", [Line(1, "80 tcp 1.2.3.4")]),
        ("80 tcp 1.2.3.4\t#the bank", [Line(1, "80 tcp 1.2.3.4")]),
        ("a#b # c", [Line(1, "a#b")]),
        # Form feed and U+2028 end no line in an editor.
        ("a\fb\nc", [Line(1, "a\fb"), Line(2, "c")]),
        ("a\u2028b\nc", [Line(1, "a\u2028b"), Line(2, "c")]),
    ],
)
def test_rule_lines(text: str, expected: list[Line]) -> None:
    assert list(rule_lines(text)) == expected


def test_problems_are_reported_together_in_line_order() -> None:
    problems = Problems("EGRESS_DESTINATION")
    problems.add(Line(7, "x"), "second")
    problems.add(Line(2, "y"), "first")
    problems.add(None, "of the whole text")
    with pytest.raises(ConfigError) as caught:
        problems.raise_if_any()
    assert str(caught.value).splitlines() == [
        "EGRESS_DESTINATION: of the whole text",
        "EGRESS_DESTINATION line 2: 'y': first",
        "EGRESS_DESTINATION line 7: 'x': second",
    ]


def test_no_problem_raises_nothing() -> None:
    Problems("EGRESS_DESTINATION").raise_if_any()
