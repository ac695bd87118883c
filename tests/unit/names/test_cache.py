from __future__ import annotations

from ipaddress import ip_address

import pytest

from egress_router.names.answer import Answer, Failure, ResolveError
from egress_router.names.cache import Cache, Entry, failed, known, put_off
from egress_router.names.lookup import Found
from egress_router.settings.names import NamesSettings

NAME = "a.example"
SETTINGS = NamesSettings(ttl_floor=2.0, ttl_ceiling=100.0, stale_seconds=1000.0)
ADDRESSES = (ip_address("192.0.2.1"),)
SILENT = ResolveError(Failure.TIMEOUT, "all are silent")


def good(now: float, ttl: int = 10) -> Entry:
    return known(None, NAME, Found(ADDRESSES, ttl, exists=True, name=NAME), now, SETTINGS)


@pytest.mark.parametrize(("ttl", "kept"), [(0, 2.0), (1, 2.0), (50, 50.0), (7 * 86400, 100.0)])
def test_a_ttl_is_kept_between_floor_and_ceiling(ttl: int, kept: float) -> None:
    assert good(1000.0, ttl).answer == Answer(ADDRESSES, 1000.0 + kept, stale=False, name=NAME)


@pytest.mark.parametrize(("ttl", "kept"), [(0, 1.0), (30, 30.0), (86400, 60.0)])
@pytest.mark.parametrize(("exists", "failure"), [(True, Failure.NO_ADDRESS), (False, Failure.NO_SUCH_NAME)])
def test_what_is_not_there_is_remembered_briefly(
    ttl: int, kept: float, exists: bool, failure: Failure
) -> None:
    entry = known(None, NAME, Found((), ttl, exists), 1000.0, SETTINGS)
    assert (entry.until, entry.answer, entry.error().failure) == (1000.0 + kept, None, failure)


@pytest.mark.parametrize("exists", [True, False])
def test_a_denial_that_does_not_say_for_how_long_is_not_remembered(exists: bool) -> None:
    assert known(None, NAME, Found((), None, exists), 1000.0, SETTINGS).until == 1000.0


def test_a_first_failure_is_remembered_for_a_second() -> None:
    entry = failed(None, SILENT, 1000.0)
    assert (entry.until, entry.error().failure, str(entry.error())) == (
        1001.0,
        Failure.TIMEOUT,
        "all are silent",
    )


def test_the_last_good_answer_goes_on_and_is_retried_more_and_more_seldom() -> None:
    entry = good(1000.0)
    waits = []
    now = 1010.0
    for _ in range(8):
        entry = failed(entry, SILENT, now)
        assert entry.answer == Answer(ADDRESSES, entry.until, stale=True, name=NAME)
        waits.append(entry.until - now)
        now = entry.until
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_the_last_good_answer_ends_with_its_bound() -> None:
    entry = failed(good(1000.0), SILENT, 2009.5)
    assert entry.answer == Answer(ADDRESSES, 2010.0, stale=True, name=NAME)
    entry = failed(entry, SILENT, 2010.0)
    assert entry.answer is None
    assert entry.error().failure is Failure.TIMEOUT


def test_a_good_answer_ends_the_back_off() -> None:
    assert failed(failed(good(1000.0), SILENT, 1010.0), SILENT, 1011.0).failures == 2
    assert good(1013.0).failures == 0


def test_a_family_that_failed_keeps_its_addresses_and_is_soon_asked_for_again() -> None:
    v6 = (ip_address("2001:db8::1"),)
    half = Found(v6, 300, exists=True, incomplete=True, name=NAME)
    entry: Entry | None = good(1000.0)
    waits = []
    now = 1010.0
    for _ in range(7):
        entry = known(entry, NAME, half, now, SETTINGS)
        assert entry.answer == Answer(v6 + ADDRESSES, entry.until, stale=False, name=NAME)
        waits.append(entry.until - now)
        now = entry.until
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    late = known(entry, NAME, half, 2010.0, SETTINGS)
    assert late.answer == Answer(v6, 2040.0, stale=False, name=NAME), "the bound of the last good answer"
    assert known(entry, NAME, Found(v6, 50, exists=True, name=NAME), now, SETTINGS).answer == Answer(
        v6, now + 50.0, stale=False, name=NAME
    )
    assert known(None, NAME, half, now, SETTINGS).answer == Answer(v6, now + 1.0, stale=False, name=NAME)


def test_addresses_of_another_name_of_the_search_list_are_not_kept() -> None:
    v6 = (ip_address("2001:db8::1"),)
    other = Found(v6, 300, exists=True, incomplete=True, name="a.example.other")
    answer = known(good(1000.0), NAME, other, 1010.0, SETTINGS).answer
    assert answer is not None
    assert (answer.addresses, answer.name) == (v6, "a.example.other")


def test_a_name_that_ceased_to_exist_leaves_no_last_good_answer() -> None:
    gone = known(None, NAME, Found((), 5, exists=False), 1010.0, SETTINGS)
    assert failed(gone, SILENT, 1020.0).answer is None


def test_putting_off_says_that_the_answer_is_stale() -> None:
    entry = put_off(good(1000.0), 1012.0)
    assert entry.answer == Answer(ADDRESSES, 1013.0, stale=True, name=NAME)
    assert (entry.until, entry.good_until, entry.failures) == (1013.0, 2010.0, 0)


def test_the_name_that_was_not_used_for_longest_makes_room() -> None:
    cache = Cache(limit=2)
    for name in ("one", "two"):
        cache.put(name, good(0.0))
    assert cache.get("one") is not None
    cache.put("three", good(0.0))
    assert [cache.get(name) is not None for name in ("one", "two", "three")] == [True, False, True]
    cache.put("three", good(1.0))
    assert len(cache) == 2
