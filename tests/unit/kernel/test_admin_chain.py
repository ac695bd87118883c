"""The administrator's table, as nft lists it: which rules are whose, and what an earlier version left."""

from __future__ import annotations

import pytest

from egress_router.kernel.nat.admin_chain import (
    FILE_CHAIN,
    NAME,
    TABLE,
    AdminRule,
    Origin,
    fault,
    faults,
    filling,
    is_filled,
    is_old,
    parsed,
    takeover,
)

STATEMENTS = ("ip daddr 192.0.2.1 counter drop", "accept")


def listing(**chains: tuple[str, ...]) -> str:
    """Return what nft lists: `own` and `file` are rules, `markers` are sets."""
    names = {"own": NAME, "file": FILE_CHAIN}
    parts = [f"\tset {name} {{\n\t\ttype mark\n\t}}\n" for name in chains.pop("markers", ())]
    for key, rules in chains.items():
        lines = "".join(f"\t\t{rule}\n" for rule in rules)
        parts.append(f"\tchain {names[key]} {{\n{lines}\t}}\n")
    hook = "\tchain forward {\n\t\ttype filter hook forward priority filter + 10; policy accept;\n\t}\n"
    return f"table inet {TABLE} {{\n" + "\n".join([*parts, hook]) + "}\n"


def marker(*statements: str) -> str:
    """Return the name of the set that a transaction with these statements adds."""
    (found,) = [
        line.split()[4] for line in filling("m", statements).splitlines() if line.startswith("add set")
    ]
    return found


def test_rules_are_told_apart_by_their_chain_and_in_the_order_of_the_packets() -> None:
    text = listing(file=("counter packets 5 bytes 60 accept",), own=("ip daddr 192.0.2.1 drop",))
    assert parsed(text) == (
        AdminRule("ip daddr 192.0.2.1 drop", None, None, Origin.CHAIN),
        AdminRule("counter accept", 5, 60, Origin.FILE),
    )
    assert parsed("") == ()


def test_only_the_same_statements_are_in_force_already() -> None:
    rules = ("ip daddr 192.0.2.1 counter packets 7 bytes 420 drop", "accept")
    there = listing(markers=(marker(*STATEMENTS),), own=("drop",), file=rules)
    assert is_filled(there, STATEMENTS)
    assert not is_filled(there, ("accept",))
    assert not is_filled(there, ())
    emptied = listing(markers=(marker(*STATEMENTS),), own=("drop",), file=())
    assert not is_filled(emptied, STATEMENTS), "somebody took rules out of the file's chain"
    assert is_filled("", ())
    assert is_filled(listing(own=("drop",)), ())


def test_what_marked_the_statements_before_goes_with_them() -> None:
    old = marker("accept")
    lines = filling("m", STATEMENTS, listing(markers=(old,), own=(), file=("accept",))).splitlines()
    assert lines.index(f"delete set inet {TABLE} {old}") < lines.index(
        f"flush chain inet {TABLE} {FILE_CHAIN}"
    )
    assert not any(line.startswith(f"flush chain inet {TABLE} {NAME}") for line in lines)
    assert not any(line.startswith("add set") for line in filling("m", ()).splitlines())


@pytest.mark.parametrize(
    ("own", "taken"),
    [
        (("a # handle 3", "b # handle 4"), (3, 4)),
        (("x # handle 9", "a # handle 3", "b # handle 4", "a # handle 10"), (3, 4)),
        (("a # handle 3", "x # handle 9", "b # handle 4"), ()),
        (("a # handle 3",), ()),
        (("a counter # handle 3", "b # handle 4"), ()),
    ],
)
def test_only_the_whole_file_in_a_row_is_taken_out_of_the_administrators_chain(
    own: tuple[str, ...], taken: tuple[int, ...]
) -> None:
    text = listing(own=own, file=("a # handle 20", "b # handle 21"))
    text = text.replace(" {\n", " { # handle 1\n")
    assert takeover(text) == "".join(f"delete rule inet {TABLE} {NAME} handle {each}\n" for each in taken)
    assert not is_old(text)


def test_a_table_without_the_files_chain_is_of_an_earlier_version() -> None:
    assert is_old(listing(own=("a",)))
    assert not is_old("")
    assert takeover(listing(own=("a # handle 3",), file=())) == ""


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("accept; delete table inet x", "one nft statement a line, without ';' or '\\'"),
        ("accept \\", "one nft statement a line, without ';' or '\\'"),
        ("goto forward", "a rule cannot leave this chain by jump or goto"),
        ('log prefix "a;b" accept', None),
        ("ip daddr 192.0.2.1 drop", None),
    ],
)
def test_a_line_must_be_one_statement(statement: str, why: str | None) -> None:
    assert fault(statement) == why


def test_what_nft_refuses_is_found_by_its_line() -> None:
    filled = filling("m", STATEMENTS)
    line = filled.splitlines().index(f"add rule inet {TABLE} {FILE_CHAIN} accept") + 1
    said = (
        f"/dev/stdin:{line}:3-9: Error: syntax error\nadd rule\n"
        f"/dev/stdin:{line}:5-6: Error: more of it\n"
        "/dev/stdin:1:1-1: Error: in front of the statements\n"
    )
    assert faults(said, filled, STATEMENTS) == [(1, "syntax error")]
    assert faults("Operation not permitted\n", filled, STATEMENTS) == []
