from __future__ import annotations

import contextlib
import os
import select
import socket

from tests.unit.relay.relay_thread import RelayThread, pair
from tests.waiting import until


def test_edges_are_reported_once_each(relay_thread: RelayThread) -> None:
    near, far = pair()
    masks: list[int] = []
    with near, far:
        relay_thread.call(lambda: relay_thread.poller.add(near.fileno(), masks.append))
        until(lambda: masks == [select.EPOLLOUT])
        far.sendall(b"x")
        until(lambda: masks == [select.EPOLLOUT, select.EPOLLIN | select.EPOLLOUT])
        far.close()
        until(lambda: masks[-1] & select.EPOLLRDHUP)
        relay_thread.call(lambda: relay_thread.poller.forget(near.fileno()))


def test_adding_again_reports_the_state_to_the_new_handler(relay_thread: RelayThread) -> None:
    near, far = pair()
    first: list[int] = []
    second: list[int] = []
    with near, far:
        far.sendall(b"x")
        relay_thread.call(lambda: relay_thread.poller.add(near.fileno(), first.append))
        until(lambda: first)
        seen = len(first)
        relay_thread.call(lambda: relay_thread.poller.add(near.fileno(), second.append))
        until(lambda: second and second[-1] & select.EPOLLIN)
        assert len(first) == seen
        relay_thread.call(lambda: relay_thread.poller.forget(near.fileno()))


def test_a_reused_number_gets_no_event_of_the_socket_before_it(relay_thread: RelayThread) -> None:
    """Both sockets are in one batch; the first handler closes the other and opens a new one in its place."""
    pairs = [pair(), pair()]
    masks: list[int] = []

    def swap(other: socket.socket) -> None:
        if masks or fresh.fileno() < 0:
            return
        number = other.fileno()
        relay_thread.poller.forget(number)
        other.detach()
        # Closes the old socket and gives its number to one that never was connected: it reports a hang-up.
        os.dup2(fresh.fileno(), number)
        fresh.close()
        numbers.append(number)
        relay_thread.poller.add(number, masks.append)

    fresh = socket.socket()
    numbers: list[int] = []
    with contextlib.ExitStack() as stack:
        for each in (*pairs[0], *pairs[1]):
            stack.enter_context(each)
        for near, far in pairs:
            far.sendall(b"x")
            assert near.recv(1, socket.MSG_PEEK) == b"x"

        def add_both() -> None:
            a, b = pairs[0][0], pairs[1][0]
            relay_thread.poller.add(a.fileno(), lambda _: swap(b))
            relay_thread.poller.add(b.fileno(), lambda _: swap(a))

        relay_thread.call(add_both)
        until(lambda: masks)
        assert masks == [select.EPOLLOUT | select.EPOLLHUP]
        relay_thread.call(lambda: relay_thread.poller.forget(numbers[0]))
        os.close(numbers[0])


def test_a_number_closed_without_a_word_can_be_added_again(relay_thread: RelayThread) -> None:
    near, far = pair()
    masks: list[int] = []
    with near, far:
        relay_thread.call(lambda: relay_thread.poller.add(near.fileno(), lambda _: None))
        with socket.socket() as other:
            os.dup2(other.fileno(), near.fileno())
        relay_thread.call(lambda: relay_thread.poller.add(near.fileno(), masks.append))
        until(lambda: masks)
        relay_thread.call(lambda: relay_thread.poller.forget(near.fileno()))


def test_a_handler_that_fails_takes_no_edge_from_the_others(relay_thread: RelayThread) -> None:
    reported: list[object] = []
    seen: list[int] = []
    error = RuntimeError("a fault in a handler")
    relay_thread.call(
        lambda: relay_thread.loop.set_exception_handler(
            lambda _, context: reported.append(context["exception"])
        )
    )

    def fail(_: int) -> None:
        raise error

    pairs = [pair() for _ in range(4)]
    with contextlib.ExitStack() as stack:
        for each in pairs:
            stack.enter_context(each[0])
            stack.enter_context(each[1])

        def add() -> None:
            for (near, _), handler in zip(pairs, (fail, seen.append, fail, seen.append), strict=True):
                relay_thread.poller.add(near.fileno(), handler)

        relay_thread.call(add)
        until(lambda: len(seen) == 2)

        def again() -> None:
            for near, _ in pairs:
                relay_thread.poller.again(near.fileno())

        relay_thread.call(again)
        until(lambda: len(seen) == 4)
        assert reported == [error] * 4

        def leave() -> None:
            for near, _ in pairs:
                relay_thread.poller.forget(near.fileno())

        relay_thread.call(leave)


def test_again_is_one_more_turn_and_none_for_those_who_left(relay_thread: RelayThread) -> None:
    near, far = pair()
    masks: list[int] = []
    with near, far:
        relay_thread.call(lambda: relay_thread.poller.add(near.fileno(), masks.append))
        until(lambda: masks)

        def ask_twice() -> None:
            relay_thread.poller.again(near.fileno())
            relay_thread.poller.again(near.fileno())

        relay_thread.call(ask_twice)
        relay_thread.call(lambda: None)
        assert len(masks) == 2

        def leave() -> None:
            relay_thread.poller.again(near.fileno())
            relay_thread.poller.forget(near.fileno())

        relay_thread.call(leave)
        relay_thread.call(lambda: None)
        assert len(masks) == 2
