"""Lines that go to several addresses: few changes, equal shares, and one transaction that the kernel takes."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.grammar.redirect import Protocol
from egress_router.kernel.nat import elements, rules, updates
from egress_router.kernel.nat.plan import FamilyPlan, NatPlan, PlannedLine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from egress_router.grammar.address import IPAddress

SOURCE = ip_address("192.168.12.99")
POOL = [ip_address(f"203.0.113.{last}") for last in range(1, 80)]
sets_of_addresses = st.lists(st.sampled_from(POOL), unique=True, max_size=70).map(tuple)


def line(port: int, *addresses: IPAddress, last: int | None = None) -> PlannedLine:
    return PlannedLine(Protocol.TCP, port, last or port, None if last else 443, addresses)


def plan(*lines: PlannedLine) -> NatPlan:
    return NatPlan("macvlan0", 9797, True, (FamilyPlan(4, (SOURCE,), lines, None),))


def with_addresses(plan: NatPlan, addresses: Mapping[int, tuple[IPAddress, ...]]) -> NatPlan:
    """Return the plan with other addresses for some lines, each named by its index."""
    family = plan.families[0]
    lines = tuple(
        replace(line, addresses=addresses[index]) if index in addresses else line
        for index, line in enumerate(family.lines)
    )
    return replace(plan, families=(replace(family, lines=lines),))


@given(before=sets_of_addresses, after=sets_of_addresses)
def test_as_few_as_can_be_change_their_place(
    before: tuple[IPAddress, ...], after: tuple[IPAddress, ...]
) -> None:
    settled = elements.settled(before, after)
    assert sorted(settled) == sorted(after)
    gone = set(before) - set(after)
    kept = [address for address in before if address in set(after)]
    moved = [address for address in kept if settled.index(address) != before.index(address)]
    assert len(moved) <= max(0, len(gone) - (len(after) - len(kept)))


def test_when_one_of_sixty_goes_one_moves() -> None:
    before = plan(line(443, *POOL[:60]))
    after = with_addresses(before, {0: tuple(POOL[:20] + POOL[21:60])})
    text, settled = updates.update(before, after)
    assert settled.families[0].lines[0].addresses[20] == POOL[59]
    assert [each for each in text.splitlines() if "element" in each] == [
        "delete element inet egress_router groups4 { tcp . 443 }",
        "delete element inet egress_router members4 { tcp . 443 . 20, tcp . 443 . 59 }",
        "add element inet egress_router groups4 { tcp . 443 : goto one_of_59_4 }",
        f"add element inet egress_router members4 {{ tcp . 443 . 20 : {POOL[59]} . 443 }}",
    ]


def test_another_order_is_no_change() -> None:
    before = plan(line(443, *POOL[:5]))
    text, settled = updates.update(before, with_addresses(before, {0: tuple(reversed(POOL[:5]))}))
    assert (text, settled) == ("", before)


def test_only_addresses_may_differ() -> None:
    before = plan(line(443, POOL[0]))
    with pytest.raises(ValueError, match="more than the addresses"):
        updates.update(before, replace(before, admin_port=1))


lines = st.tuples(sets_of_addresses, sets_of_addresses, sets_of_addresses)


@pytest.mark.parametrize("start", [(), (POOL[0],), tuple(POOL[:3]), tuple(POOL[:60])])
@pytest.mark.parametrize("end", [(), (POOL[0],), (POOL[9],), tuple(POOL[1:4]), tuple(POOL[5:70])])
def test_the_kernel_comes_to_the_same_by_every_way(
    start: tuple[IPAddress, ...], end: tuple[IPAddress, ...]
) -> None:
    """An update leaves the elements that the plan has when it is put in force for the first time."""
    before = plan(line(80, *start), line(5000, *start, last=5100), line(443, POOL[0]))
    after = with_addresses(before, {0: end, 1: end})
    text, settled = updates.update(before, after)
    show = "".join(f"nft list map inet egress_router {name}4; " for name in elements.MAPS)
    script = f"nft -f /dev/fd/3 && nft -f /dev/fd/4 && {show} echo --- && nft -f /dev/fd/5 && {show}"
    listed = _run(script, rules.render(before), text, rules.render(settled))
    first, second = listed.split("---\n")
    assert _elements(first) == _elements(second)


def _elements(listed: str) -> list[str]:
    return sorted(each.strip() for each in re.findall(r"map \w+|tcp \. [^,}\n]+", listed))


def _run(script: str, *texts: str) -> str:
    """Run a script in a network namespace of its own; it finds the texts at /dev/fd/3 and on."""
    parts = [f"cat > $d/{number} <<'END'\n{text}\nEND\n" for number, text in enumerate(texts, 3)]
    redirected = " ".join(f"{number}<$d/{number}" for number in range(3, 3 + len(texts)))
    whole = f"d=$(mktemp -d); trap 'rm -r $d' EXIT\n{''.join(parts)}( {script} ) {redirected}"
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-c", whole], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("protocol", "number"), [("tcp", 6), ("udp", 17), ("sctp", 132)])
def test_lines_of_every_protocol_may_lead_to_several_addresses(protocol: str, number: int) -> None:
    """nft makes the rule check the protocol of the map's values, so each protocol needs a rule of its own."""
    some = replace(line(443, *POOL[:2]), protocol=Protocol(protocol))
    more = replace(line(5000, *POOL[:2], last=5100), protocol=Protocol(protocol))
    before = plan(some, more)
    text, _ = updates.update(before, with_addresses(before, {0: tuple(POOL[:3]), 1: tuple(POOL[:3])}))
    chain, whole = (
        ("" if protocol == "tcp" else f"{protocol}_"),
        "nft --debug=netlink list chain inet egress_router",
    )
    show = f"{whole} {chain}one_of_2_4 && {whole} {chain}one_of_3_4 && echo --- && {whole} range_one_of_3_4"
    listed = _run(f"nft -f /dev/fd/3 && nft -f /dev/fd/4 && {show}", rules.render(before), text)
    ported, ranged = listed.split("---\n")
    asked = re.findall(r"cmp eq reg 1 0x(\w+) ", ported[ported.index("one_of_2_4 ") :])
    assert {int(each, 16) for each in asked} <= {number}
    assert "cmp" not in ranged[ranged.index("range_one_of_3_4 ") :]


def test_a_thousand_names_are_laid_out_again_in_little_time() -> None:
    """Every name loses one of 16 addresses. The machine may be busy: CPU time counts, with a margin."""
    addresses = tuple(IPv4Address(0xCB007100 + number) for number in range(17))
    before = plan(*(line(1000 + number, *addresses[:16]) for number in range(1000)))
    wanted = dict.fromkeys(range(1000), addresses[:5] + addresses[6:16])
    begun = time.process_time()
    text, _ = updates.update(before, with_addresses(before, wanted))
    assert time.process_time() - begun < 0.5
    assert text.count(" : goto one_of_15_4") == 1000
