from __future__ import annotations

from ipaddress import ip_address

import pytest

from egress_router.names.resolv_conf import ResolvConf, parse_resolv_conf

KUBERNETES = """\
search shop.svc.cluster.local svc.cluster.local cluster.local
nameserver 10.96.0.10
options ndots:5
"""


def conf(text: str) -> ResolvConf:
    return parse_resolv_conf(text)


def test_what_an_empty_file_means() -> None:
    assert conf("") == ResolvConf(
        (ip_address("127.0.0.1"),), (), ndots=1, timeout=5, attempts=2, rotate=False
    )


def test_what_kubernetes_writes() -> None:
    search = ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local")
    assert conf(KUBERNETES) == ResolvConf((ip_address("10.96.0.10"),), search, 5, 5, 2, rotate=False)


def test_three_servers_at_most_with_zones_and_without_nonsense() -> None:
    text = "nameserver fe80::1%eth0\nnameserver none\nnameserver\nnameserver 10.0.0.1\nnameserver ::1\nnameserver 10.0.0.2"
    assert [str(server) for server in conf(text).servers] == ["fe80::1%eth0", "10.0.0.1", "::1"]


def test_comments_stand_at_the_beginning_of_a_line() -> None:
    assert conf("#nameserver 10.0.0.1\n;nameserver 10.0.0.2\n").servers == (ip_address("127.0.0.1"),)


@pytest.mark.parametrize(
    ("text", "search"),
    [
        ("domain one.example two.example", ("one.example",)),
        ("domain one.example\nsearch two.example three.example", ("two.example", "three.example")),
        ("search two.example\ndomain one.example", ("one.example",)),
        ("search . Bad_..name UP.example.", ("up.example",)),
        ("search " + " ".join(f"s{number}.example" for number in range(40)), tuple(f"s{number}.example" for number in range(32))),
    ],
)  # fmt: skip
def test_the_last_search_list_counts(text: str, search: tuple[str, ...]) -> None:
    assert conf(text).search == search


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("timeout:3 attempts:4 ndots:2 rotate", (3, 4, 2, True)),
        ("timeout:0 attempts:0 ndots:0", (1, 1, 0, False)),
        ("timeout:99 attempts:99 ndots:99", (30, 5, 15, False)),
        ("timeout:x attempts: ndots:-1 ndots:\u0663 trust-ad rotate:1", (5, 2, 1, False)),
        ("timeout:3\noptions rotate\noptions attempts:1", (3, 1, 1, True)),
        (f"timeout:{'9' * 5000}", (30, 2, 1, False)),
    ],
)
def test_options_are_capped_and_nonsense_is_ignored(
    options: str, expected: tuple[int, int, int, bool]
) -> None:
    read = conf(f"options {options}\n")
    assert (read.timeout, read.attempts, read.ndots, read.rotate) == expected


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        ("db", ["db.shop.svc.cluster.local", "db.svc.cluster.local", "db.cluster.local", "db"]),
        ("www.example", ["www.example"]),
        ("a.b.c.d.e.f", ["a.b.c.d.e.f"]),
        ("db.", ["db"]),
    ],
)  # fmt: skip
def test_the_search_list_is_for_names_without_a_dot(name: str, candidates: list[str]) -> None:
    assert list(conf(KUBERNETES).candidates(name)) == candidates


def test_without_ndots_the_search_list_comes_last() -> None:
    assert list(conf("search example\noptions ndots:0").candidates("db")) == ["db", "db.example"]


def test_a_candidate_that_would_be_too_long_is_left_out() -> None:
    suffix = ".".join(["a" * 49] * 5)
    assert list(conf(f"search {suffix} x.example").candidates("abcd")) == ["abcd.x.example", "abcd"]
